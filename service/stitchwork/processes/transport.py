"""Messages between a process and its children: pickles whose large parts travel beside them.

The bytes of arrays, of long texts and of long byte strings are copied neither when a message is
written nor, but for texts, when it is read. Long lists are read in slices, so that no call holds
the interpreter's lock for long.
"""

import io
import pickle
import socket
import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final, TypeAlias

LONG_VALUE: Final = 4096
"""Length of a text or a byte string from which it travels beside the pickle."""
SENT_BYTES: Final = 64 * 1024
"""Size from which a part is sent by itself, not copied."""
LIST_SLICE: Final = 4096
"""Elements of a list that are read in one call."""
_COUNT: Final = struct.Struct("<Q")

Part: TypeAlias = bytes | bytearray | memoryview
_Stream: TypeAlias = tuple[int, list[int]]
"""Index of a pickle among the parts of a message, and those of its arrays."""


def pack(value: Any) -> list[Part]:
    """The parts of a message."""
    parts: list[Part] = [b""]
    parts[0] = pickle.dumps(_pack_stream(value, parts))
    return parts


def unpack(parts: Sequence[Part]) -> Any:
    """The value of a message that `pack` made; its arrays and long byte strings share its memory.

    A long byte string is a `memoryview`, and nothing can be written to.
    """
    return _unpack_stream(pickle.loads(parts[0]), parts)  # noqa: S301 of this program's processes


def send(connection: socket.socket, parts: Sequence[Part]) -> None:
    """Send a message.

    Raises:
        OSError: If the other process has ended.
    """
    sizes = [len(part) for part in parts]
    connection.sendall(b"".join(_COUNT.pack(number) for number in (len(parts), *sizes)))
    small = bytearray()
    for part in parts:
        if len(part) < SENT_BYTES:
            small += part
            continue
        connection.sendall(small)
        connection.sendall(part)
        small.clear()
    connection.sendall(small)


def receive(connection: socket.socket) -> list[memoryview]:
    """Receive a message, into one piece of memory that goes when the last part does.

    Raises:
        EOFError: If the other process has ended.
        OSError: If the connection is closed.
    """
    (count,) = _COUNT.unpack(_receive_bytes(connection, _COUNT.size))
    sizes = struct.unpack(f"<{count}Q", _receive_bytes(connection, count * _COUNT.size))
    data = _receive_bytes(connection, sum(sizes))
    return [data[stop - size : stop] for size, stop in zip(sizes, accumulate(sizes), strict=True)]


def _receive_bytes(connection: socket.socket, size: int) -> memoryview:
    data, position = memoryview(bytearray(size)), 0
    while position < size:
        received = connection.recv_into(data[position:], 0, socket.MSG_WAITALL)
        if not received:
            raise EOFError("the other process has ended")
        position += received
    return data.toreadonly()


def _pack_stream(value: Any, parts: list[Part]) -> _Stream:
    packer = _Packer(parts)
    packer.dump(value)
    parts.append(packer.stream.getvalue())
    return len(parts) - 1, packer.arrays


def _unpack_stream(stream: _Stream, parts: Sequence[Part]) -> Any:
    index, arrays = stream
    return _Unpacker(parts[index], [parts[i] for i in arrays], parts).load()


class _Packer(pickle.Pickler):
    """Writes one pickle, and its large parts to the parts of its message."""

    def __init__(self, parts: list[Part]) -> None:
        self.stream = io.BytesIO()
        self.arrays: list[int] = []
        self._parts = parts
        arrays = self.arrays

        # A method would make a reference cycle, which keeps the parts until they are collected.
        def add_array(buffer: pickle.PickleBuffer) -> None:
            arrays.append(len(parts))
            parts.append(buffer.raw())

        super().__init__(self.stream, pickle.HIGHEST_PROTOCOL, buffer_callback=add_array)

    def persistent_id(self, value: Any) -> Any:
        """What stands for a large value in the pickle; None for others."""
        kind = type(value)
        if kind is list and len(value) > LIST_SLICE:
            starts = range(0, len(value), LIST_SLICE)
            slices = (value[start : start + LIST_SLICE] for start in starts)
            return list, [_pack_stream(part, self._parts) for part in slices]
        if kind in (str, bytes, bytearray, memoryview) and len(value) >= LONG_VALUE:
            data = value.encode("utf-8", "surrogatepass") if kind is str else value
            self._parts.append(data)
            return str if kind is str else bytes, len(self._parts) - 1
        return None


class _Unpacker(pickle.Unpickler):
    """Reads one pickle of a message."""

    def __init__(self, stream: Part, arrays: Sequence[Part], parts: Sequence[Part]) -> None:
        super().__init__(io.BytesIO(stream), buffers=arrays)
        self._parts = parts

    def persistent_load(self, pid: Any) -> Any:
        """The large value that an id stands for."""
        kind, content = pid
        if kind is list:
            return [one for stream in content for one in _unpack_stream(stream, self._parts)]
        data = self._parts[content]
        return str(data, "utf-8", "surrogatepass") if kind is str else memoryview(data)
