"""`python -m stitchwork.processes.call_loop FD BYTES NICENESS`: a child of a `ProcessPool`.

It computes one call after the other, and ends when its parent does.
"""

import os
import queue
import resource
import signal
import socket
import sys
import threading
import traceback
from typing import Any, Final

from stitchwork.processes import transport

MAX_RETAINED_BYTES: Final = 512 * 1024 * 1024
"""Peak of its memory after which a process ends, since not all of it would be returned."""
_RUSAGE_UNIT: Final = 1 if sys.platform == "darwin" else 1024


def main(connection: socket.socket, max_bytes: int, niceness: int) -> None:
    """Compute calls until the parent closes the connection, or ends.

    Args:
        connection: The connection to the parent.
        max_bytes: Maximum size of the address space, where the system can bound it.
        niceness: Added to the priority of the process.
    """
    # The terminal interrupts all processes of a group; the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    os.nice(niceness)
    # At first this is the parent's own peak, on Linux.
    retained = max(MAX_RETAINED_BYTES, _peak_bytes())
    calls: queue.SimpleQueue[list[memoryview]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, calls), daemon=True).start()
    while True:
        transport.send(connection, _compute(calls.get()))
        if _peak_bytes() > retained:
            return


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT


def _receive(connection: socket.socket, calls: "queue.SimpleQueue[list[memoryview]]") -> None:
    """Receive calls; also during a call, so that the end of the parent ends it."""
    while True:
        try:
            calls.put(transport.receive(connection))
        except (EOFError, OSError, MemoryError):
            os._exit(0)


def _compute(call: list[memoryview]) -> list[transport.Part]:
    """The result of a call, or the error that it raised, as a message."""
    result: tuple[bool, Any]
    try:
        function, arguments = transport.unpack(call)
        call.clear()
        return transport.pack((True, function(*arguments)))
    except Exception as error:  # noqa: BLE001 the parent raises it
        error.add_note(traceback.format_exc())
        result = (False, error)
    try:
        return transport.pack(result)
    except Exception:  # noqa: BLE001 not every error can be pickled
        message = f"{type(result[1]).__name__}: {result[1]}"
        return transport.pack((False, RuntimeError(message)))


if __name__ == "__main__":
    descriptor, *numbers = map(int, sys.argv[1:])
    main(socket.socket(fileno=descriptor), *numbers)
