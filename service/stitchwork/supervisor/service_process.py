"""The launcher's handle on a running service: its supervisor process, address and events."""

import contextlib
import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from stitchwork.errors import UnavailableError
from stitchwork.processes.listener import listen, listen_on_path
from stitchwork.supervisor import embedded_servers
from stitchwork.supervisor.api_connection import Address, ApiConnection
from stitchwork.supervisor.plan import KILL_SECONDS, PYTHON, SERVER_SECONDS, Plan, describe_exit

MIN_PAUSE: Final = 0.1
MAX_PAUSE: Final = 0.5
EVENT_MESSAGES: Final = {
    "waiting": "waiting for another stitchwork to release the data directory",
    "locked": "starting the servers",
    "loading": "waiting for the registry to load its data",
}
"""What the launcher waits for after an event."""

Event = dict[str, Any]
Report = Callable[[str | None], None]


class HasFileno(Protocol):
    """A file or socket that a selector can wait for."""

    def fileno(self) -> int:
        """Its file descriptor."""


class ServiceProcess:
    """A supervisor and its children; leaving the context stops them. Not thread-safe.

    Args:
        plan: What to run.

    Attributes:
        url: Address of the API; `unix:PATH` of a Unix socket.
        pid: The supervisor's process, whose session and group its children share.
        redis_url: The registry server.
        queue_url: The queue server, where it is another.

    Raises:
        UnavailableError: If the address cannot be listened on.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.redis_url, self.queue_url = plan.redis_url, plan.queue_url
        self._pids: dict[str, int] = {}
        self._buffer = b""
        self._stop_requests = 0
        self._code: int | None = None
        self._last_death = ""
        self._runtime_dir = ""
        self._stack = contextlib.ExitStack()
        with self._listen() as listener:
            self._address = _reachable(listener)
            self._process = subprocess.Popen(  # noqa: S603
                [*PYTHON, "stitchwork.supervisor.supervisor", str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=(listener.fileno(),),
                # The launcher handles Ctrl-C in a terminal, and passes it on once.
                start_new_session=True,
            )
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._control, self._events = self._process.stdin, self._process.stdout
        self.url = _url(self._address, encrypted=plan.encrypted)
        self.pid = self._process.pid
        # Not on the command line, where every user could read the passwords in it.
        self._send(plan.to_json())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def stop_requested(self) -> bool:
        """Whether `request_stop` was called."""
        return self._stop_requests > 0

    @property
    def pids(self) -> dict[str, int]:
        """The children's processes, by name: `registry`, `queue`, `worker-1`, and so on, `api`."""
        while (event := self.next_event(0.0)) is not None and event["event"] != "ended":
            continue
        return dict(self._pids)

    def await_ready(self, timeout: float, report: Report = lambda message: None) -> None:
        """Wait until the API answers and, unless there are to be none, a worker is alive.

        Args:
            timeout: Seconds without progress after which to give up; a server that reads a long
                append-only file makes progress.
            report: Called with what is waited for.

        Raises:
            UnavailableError: If it does not get ready, or is stopped; the message has the reason.
        """
        # The first event means that a predecessor, if any, has released the data directory.
        kind, patience = "", timeout + self._plan.lock_seconds
        while kind != "running":
            event = self.next_event(patience)
            if event is None:
                raise UnavailableError(
                    f"the servers made no progress in {patience:g} s{self._last_death}"
                )
            kind = self._raise_if_ended(event)["event"]
            patience = patience if kind == "waiting" else timeout
            if kind in EVENT_MESSAGES:
                report(EVENT_MESSAGES[kind])
        deadline = time.monotonic() + timeout
        report("waiting for the API")
        self._await_health("/health/live", deadline)
        if self._plan.workers:
            report("waiting for a worker")
            self._await_health("/health/ready?workers=1", deadline)
        self._send("ready")

    def next_event(self, timeout: float | None) -> Event | None:
        """The supervisor's next event.

        Returns:
            An object with the key `event`: `waiting`, `locked`, `loading`, `running`, `started` and
            `died` with `child` and `pid`, the latter with `reason` and `pause`, the seconds until
            it starts again; or `ended`, the last one. None if nothing came in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            piece = b""
            if self._code is None:
                if not _readable(left, self._events):
                    return None
                piece = os.read(self._events.fileno(), 65_536)
            if not piece:
                return {"event": "ended", "code": self._code, "reason": "the supervisor died"}
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        event: Event = json.loads(line)
        self._apply(event)
        return event

    def request_stop(self) -> None:
        """Request a stop without waiting; a second request drops the work in progress."""
        self._stop_requests += 1
        self._send("stop" if self._stop_requests == 1 else "hurry")

    def stop(self) -> int:
        """Stop everything in order and wait for it.

        Returns:
            0 if all ended in order, else another number.
        """
        if self._code is None:
            if not self._stop_requests:
                self.request_stop()
            self._finish(2 * (self._plan.drain_seconds + SERVER_SECONDS + 2 * KILL_SECONDS))
        return self._code or 0

    def wait(self) -> int:
        """Wait until it ends, on request or by itself.

        Returns:
            0 if all ended in order, else another number.
        """
        if self._code is None:
            self._finish(None)
        return self._code or 0

    def _listen(self) -> socket.socket:
        plan = self._plan
        if plan.unix_socket is None:
            return listen(plan.host, plan.port)
        return self._stack.enter_context(listen_on_path(plan.unix_socket))

    def _finish(self, timeout: float | None) -> None:
        event: Event | None = {"event": ""}
        while event is not None and event["event"] != "ended":
            event = self.next_event(timeout)
        if event is None:
            _log("the supervisor does not end; killing it")
        if event is None or event["code"] is None:
            # On Linux its children die with it; on macOS (untested) nothing else ends them.
            # Until it has been waited for, no other group can have its number.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGTERM)
            self._process.kill()
            embedded_servers.remove_runtime_dir(self._runtime_dir)
        status = self._process.wait(KILL_SECONDS)
        if status < 0:
            _log(f"the supervisor {describe_exit(status)}")
        self._pids.clear()
        self._stack.close()
        # Before the pipes are closed, since a signal handler may write to one.
        self._code = status if status >= 0 else 1
        self._control.close()
        self._events.close()

    def _send(self, line: str) -> None:
        if self._code is not None:
            return
        # Where the supervisor is gone, the end of its events says so.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._control.fileno(), line.encode() + b"\n")

    def _apply(self, event: Event) -> None:
        match event["event"]:
            case "locked":
                self._runtime_dir = event["runtime"]
            case "running":
                self.redis_url, self.queue_url = event["redis_url"], event["queue_url"]
            case "started":
                self._pids[event["child"]] = event["pid"]
            case "died":
                self._pids.pop(event["child"], None)
                self._last_death = f": {event['reason']}"

    def _raise_if_ended(self, event: Event) -> Event:
        if event["event"] == "ended":
            raise UnavailableError(event["reason"] or "stopped before it was ready")
        return event

    def _await_health(self, path: str, deadline: float) -> None:
        answer, pause = "no answer", MIN_PAUSE
        while (left := deadline - time.monotonic()) > 0:
            connection = ApiConnection(self._address, encrypted=self._plan.encrypted, timeout=left)
            try:
                connection.request("GET", path)
                self._await_response(connection.sock, deadline)
                response = connection.getresponse()
                if response.status == 200:
                    return
                answer = f"{response.status} {response.read(500).decode(errors='replace')}"
            except TimeoutError:
                # The next attempt, if there is time for one.
                pause = 0.0
            except (OSError, http.client.HTTPException) as error:
                answer = f"{type(error).__name__} {error}"
            finally:
                connection.close()
            if (event := self.next_event(pause)) is not None:
                self._raise_if_ended(event)
            pause = min(1.5 * pause, MAX_PAUSE)
        raise UnavailableError(f"{self.url}{path} is not healthy: {answer}{self._last_death}")

    def _await_response(self, connection: socket.socket, deadline: float) -> None:
        # The socket listens from the first moment on, so the request waits in it for the API,
        # and the response comes as soon as there is one.
        while (left := deadline - time.monotonic()) > 0:
            ready = _readable(left, connection, self._events)
            if connection in ready:
                return
            if ready and (event := self.next_event(0.0)) is not None:
                self._raise_if_ended(event)
        raise TimeoutError


def _reachable(listener: socket.socket) -> Address:
    """Where this machine reaches a listening socket."""
    address = listener.getsockname()
    if isinstance(address, str):
        return Path(address)
    host, port = address[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104


def _url(address: Address, *, encrypted: bool) -> str:
    if isinstance(address, Path):
        return f"unix:{address}"
    host, port = address
    scheme = "https" if encrypted else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _readable(seconds: float | None, *files: HasFileno) -> list[HasFileno]:
    with selectors.DefaultSelector() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ, file)
        return [key.data for key, _ in selector.select(seconds)]


def _log(message: str) -> None:
    print(f"stitchwork: {message}", file=sys.stderr, flush=True)  # noqa: T201
