"""The supervisor's input: orders from its launcher, and signals."""

import os
import selectors
import signal

from stitchwork.supervisor.plan import Plan


class ControlPipe:
    """Orders from the control pipe and signals, as one stream of words.

    The launcher's words are `ready`, `stop` and `hurry`. The end of the pipe, SIGTERM, SIGINT and
    SIGHUP read as `stop`; the death of a child only ends the wait.

    Args:
        pipe: The file descriptor of the read end.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ)
        self._wake, wake = os.pipe()
        for end in (self._wake, wake):
            os.set_blocking(end, False)
        self._selector.register(self._wake, selectors.EVENT_READ)
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Only a signal with a handler is written to the wakeup descriptor.
            signal.signal(signum, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def read_plan(self) -> Plan | None:
        """The plan, which comes first; None if the launcher has ended already."""
        while b"\n" not in self._buffer:
            piece = os.read(self._pipe, 65_536)
            if not piece:
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return Plan.from_json(line)

    def wait(self, seconds: float | None) -> list[str]:
        """Wait for an order, a signal or a child's death; returns the orders, perhaps none."""
        words = []
        for key, _ in self._selector.select(0 if b"\n" in self._buffer else seconds):
            piece = os.read(key.fd, 65_536)
            if key.fd == self._wake:
                words += ["stop"] * any(number != signal.SIGCHLD for number in piece)
            elif piece:
                self._buffer += piece
            else:
                self._selector.unregister(self._pipe)
                words.append("stop")
        *lines, self._buffer = self._buffer.split(b"\n")
        return words + [line.decode() for line in lines]
