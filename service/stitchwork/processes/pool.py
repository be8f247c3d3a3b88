"""A few child processes, started when they are needed."""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from stitchwork.processes import transport

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BYTES: Final = 4 * 1024**3
"""Address space of one process."""
IDLE_SECONDS: Final = 60.0
"""Time after which a process without calls ends."""
ATTEMPTS: Final = 2
"""Processes that may die of one call: the first one may have been killed for another reason."""
SINGLE_THREADED: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""The libraries' pools of threads would take more memory than a process does."""


class ProcessDiedError(Exception):
    """The process of a call ended before its result, such as for want of memory."""


class CallCancelledError(Exception):
    """A call was cancelled."""


class CallHandle:
    """Cancels one call, from any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._process: _Process | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """End the call: its process is killed, if it has one."""
        with self._guard:
            self.cancelled = True
            if self._process is not None:
                self._process.kill()

    def bind(self, process: "_Process | None") -> None:
        """Set the process that computes the call.

        Raises:
            CallCancelledError: If the call was cancelled.
        """
        with self._guard:
            self._process = process
            if process is not None and self.cancelled:
                raise CallCancelledError("the call was cancelled")


class ProcessPool:
    """Calls functions in child processes.

    A process starts with the first call that finds none idle, ends when it is idle for long or when
    this process ends, whatever ended it, and a dead one is replaced.

    Args:
        max_processes: Maximum number of processes; further calls wait.
        max_bytes: Maximum size of the address space of each.
        idle_seconds: Time after which a process without calls ends.
        niceness: Added to the priority of each process.
    """

    def __init__(
        self,
        max_processes: int,
        *,
        max_bytes: int = MAX_BYTES,
        idle_seconds: float = IDLE_SECONDS,
        niceness: int = 0,
    ) -> None:
        self.max_processes = max_processes
        self.max_bytes = max_bytes
        self._idle_seconds = idle_seconds
        self._niceness = niceness
        self._slots = threading.BoundedSemaphore(max_processes)
        self._guard = threading.Lock()
        self._processes: set[_Process] = set()
        self._idle: list[_Process] = []
        self._timer: threading.Timer | None = None
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The ids of the live processes."""
        with self._guard:
            return [process.pid for process in self._processes if process.is_alive]

    def call(self, function: Callable[..., T], *args: Any, handle: CallHandle | None = None) -> T:
        """Call a function of a module in a child process, and wait for its result.

        Args:
            function: The function; it and its arguments must be picklable.
            args: Its arguments.
            handle: Cancels the call.

        Returns:
            Its result; arrays in it are read-only.

        Raises:
            ProcessDiedError: If it ends its process, such as for want of memory.
            CallCancelledError: If the call was cancelled.
            Exception: What the function raises.
        """
        handle = handle or CallHandle()
        request = transport.pack((function, args))
        with self._slots:
            succeeded, result = self._compute(request, handle)
        if succeeded:
            value: T = result
            return value
        try:
            if isinstance(result, MemoryError):
                raise ProcessDiedError(f"{function.__name__} needs more memory") from result
            raise result
        finally:
            # An error has this frame, and with it the arguments: they would wait for the collector.
            del request, result

    def close(self) -> None:
        """End all processes and accept no more calls."""
        with self._guard:
            self._closed = True
            processes, self._processes = self._processes, set()
            self._idle.clear()
            if self._timer is not None:
                self._timer.cancel()
        for process in processes:
            process.end()

    def _compute(self, request: list[transport.Part], handle: CallHandle) -> tuple[bool, Any]:
        for _ in range(ATTEMPTS):
            process = self._take()
            reply = None
            try:
                handle.bind(process)
                transport.send(process.connection, request)
                reply = transport.receive(process.connection)
            except (EOFError, OSError) as error:
                if handle.cancelled:
                    raise CallCancelledError("the call was cancelled") from error
            finally:
                handle.bind(None)
                if reply is None:
                    self._end(process)
            if reply is not None:
                self._give_back(process)
                result: tuple[bool, Any] = transport.unpack(reply)
                return result
            log.warning("child process ended", extra={"pid": process.pid})
        raise ProcessDiedError("the process of the call ended")

    def _take(self) -> "_Process":
        """An idle process, or a new one."""
        while True:
            with self._guard:
                if self._closed:
                    raise CallCancelledError("the pool is closed")
                process = self._idle.pop() if self._idle else None
            if process is None:
                process = _Process(self.max_bytes, self._niceness)
                with self._guard:
                    self._processes.add(process)
                return process
            if process.is_alive:
                return process
            self._end(process)

    def _give_back(self, process: "_Process") -> None:
        with self._guard:
            if self._closed:
                return
            self._idle.append(process)
            if self._timer is not None:
                self._timer.cancel()
            # One timer for all: they end together once the last of them has been idle for long.
            self._timer = threading.Timer(self._idle_seconds, self._end_idle)
            self._timer.daemon = True
            self._timer.start()

    def _end_idle(self) -> None:
        with self._guard:
            idle, self._idle = self._idle, []
        for process in idle:
            self._end(process)

    def _end(self, process: "_Process") -> None:
        with self._guard:
            self._processes.discard(process)
        process.end()


class _Process:
    """A child process and the connection to it."""

    def __init__(self, max_bytes: int, niceness: int) -> None:
        self.connection, other = socket.socketpair()
        with other:
            # Without -P, modules in the working directory would hide installed ones.
            command = (sys.executable, "-P", "-m", "stitchwork.processes.call_loop")
            numbers = (other.fileno(), max_bytes, niceness)
            self._popen = subprocess.Popen(  # noqa: S603
                [*command, *map(str, numbers)],
                env={**os.environ, **SINGLE_THREADED},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(other.fileno(),),
            )
        self.pid = self._popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._popen.poll() is None

    def kill(self) -> None:
        """End it at once, and with it what waits for its reply."""
        self._popen.kill()

    def end(self) -> None:
        """End it, and release what belongs to it."""
        self._popen.kill()
        self._popen.wait()
        self.connection.close()
