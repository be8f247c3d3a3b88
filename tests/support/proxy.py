"""A proxy between a client and a server that records all traffic, and can cut it off."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

SECONDS: Final = 5.0


class Chunk(NamedTuple):
    """Bytes on one connection, to the server or from it."""

    connection: int
    to_server: bool
    data: bytes


class Proxy:
    """Forwards all bytes between its socket and a server's, in both directions.

    Args:
        path: The socket on which it listens.
        server: The server's socket.

    Attributes:
        url: Where it listens, as a URL for Redis clients.
        chunks: All traffic, in order.
        triggered: Set once the traffic was cut off as requested.
    """

    def __init__(self, path: Path, server: Path) -> None:
        self.url = f"unix://{path}"
        self.chunks: list[Chunk] = []
        self.triggered = threading.Event()
        self._server = server
        self._guard = threading.Lock()
        self._cut: tuple[bytes, int] | None = None
        self._silence: bytes | None = None
        self._connections = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def close(self) -> None:
        """Close every connection, and accept no new ones."""
        with contextlib.suppress(OSError):
            # Wakes the thread that waits in accept.
            self._listener.shutdown(socket.SHUT_RDWR)
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SECONDS)
        for end in (self._listener, *self._ends):
            end.close()

    def cut(self, word: bytes, length: int) -> None:
        """Forward no more than `length` bytes from the start of the next occurrence of a word."""
        self._arm(cut=(word, length))

    def drop_replies(self, word: bytes) -> None:
        """Forward no reply once a word was sent to the server."""
        self._arm(silence=word)

    def restore(self) -> None:
        """Forward everything again, on new connections."""
        self._arm()

    def _arm(self, cut: tuple[bytes, int] | None = None, silence: bytes | None = None) -> None:
        with self._guard:
            self._cut, self._silence = cut, silence
            self.chunks.clear()
            self.triggered.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            self._ends += [client, server]
            server.connect(str(self._server))
            self._connections += 1
            self._run(self._pump, self._connections, client, server, True)
            self._run(self._pump, self._connections, server, client, False)

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _pump(
        self, connection: int, source: socket.socket, sink: socket.socket, to_server: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                allowed = self._record(Chunk(connection, to_server, data))
                sink.sendall(data[:allowed])
        # Closing both ends the other direction's thread too.
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _record(self, chunk: Chunk) -> int:
        """Record a chunk; how many of its bytes to forward."""
        with self._guard:
            before = self._sent(chunk.connection)
            self.chunks.append(chunk)
            allowed = len(chunk.data)
            if chunk.to_server and self._cut:
                word, length = self._cut
                at = (before + chunk.data).find(word)
                if at >= 0 and at + length < len(before) + allowed:
                    allowed = max(0, at + length - len(before))
                    self.triggered.set()
            if not chunk.to_server and self._silence and self._silence in before:
                allowed = 0
                self.triggered.set()
            return allowed

    def _sent(self, connection: int) -> bytes:
        return b"".join(
            chunk.data
            for chunk in self.chunks
            if chunk.connection == connection and chunk.to_server
        )
