"""A wire between a client and a server that remembers what passes, and can be cut."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

SECONDS: Final = 5.0


class Chunk(NamedTuple):
    """Bytes that passed on one connection, to the server or from it."""

    line: int
    to_server: bool
    data: bytes


class Proxy:
    """Listens on a socket of its own and passes all bytes on, in both directions.

    Args:
        path: Where it listens.
        server: The server's socket.

    Attributes:
        passed: All that passed, in order.
        reached: Set once what was asked to be cut off was cut off.
    """

    def __init__(self, path: Path, server: Path) -> None:
        self.url = f"unix://{path}"
        self.passed: list[Chunk] = []
        self.reached = threading.Event()
        self._server = server
        self._guard = threading.Lock()
        self._cut: tuple[bytes, int] | None = None
        self._hush: bytes | None = None
        self._lines = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def close(self) -> None:
        """Cut every connection, and take no new ones."""
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

    def cut(self, word: bytes, after: int) -> None:
        """From the next time a word is sent on, pass nothing but so many bytes from its start."""
        self._arm(cut=(word, after))

    def hush(self, word: bytes) -> None:
        """From the next time a word is sent on, pass no answer."""
        self._arm(hush=word)

    def mend(self) -> None:
        """Pass everything on, on connections that are made from now on."""
        self._arm()

    def _arm(self, cut: tuple[bytes, int] | None = None, hush: bytes | None = None) -> None:
        with self._guard:
            self._cut, self._hush = cut, hush
            self.passed.clear()
            self.reached.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            self._ends += [client, server]
            server.connect(str(self._server))
            self._lines += 1
            self._run(self._pump, self._lines, client, server, True)
            self._run(self._pump, self._lines, server, client, False)

    def _run(self, work: Callable[..., None], *told: object) -> None:
        thread = threading.Thread(target=work, args=told, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _pump(self, line: int, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                allowed = self._note(Chunk(line, to_server, data))
                sink.sendall(data[:allowed])
        # The other end learns of it, and its pump ends with it.
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _note(self, passed: Chunk) -> int:
        """How many of these bytes may pass."""
        with self._guard:
            before = self._sent(passed.line)
            self.passed.append(passed)
            allowed = len(passed.data)
            if passed.to_server and self._cut:
                word, after = self._cut
                at = (before + passed.data).find(word)
                if at >= 0 and at + after < len(before) + allowed:
                    allowed = max(0, at + after - len(before))
                    self.reached.set()
            if not passed.to_server and self._hush and self._hush in before:
                allowed = 0
                self.reached.set()
            return allowed

    def _sent(self, line: int) -> bytes:
        sent = [passed.data for passed in self.passed if passed.line == line and passed.to_server]
        return b"".join(sent)
