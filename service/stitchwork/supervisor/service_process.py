"""The launcher's side of a running service: a handle on the supervisor."""

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
from types import TracebackType
from typing import Any, Final, Protocol, Self

from stitchwork.errors import UnavailableError
from stitchwork.supervisor import embedded_servers
from stitchwork.supervisor.plan import KILL_SECONDS, SERVER_SECONDS, Plan, how

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 0.5
BACKLOG: Final = 2048

Event = dict[str, Any]


class HasFileno(Protocol):
    """What can be waited for."""

    def fileno(self) -> int:
        """Its descriptor."""


class ServiceProcess:
    """A supervisor and what it runs; stops it all when left as a context. For one thread.

    Attributes:
        url: Where the API answers.
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
        self._heard = b""
        self._asked = 0
        self._code: int | None = None
        self._trouble = ""
        self._runtime = ""
        with listen(plan.host, plan.port) as listener:
            self._address = _reachable(listener)
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "stitchwork.supervisor.supervisor", str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=(listener.fileno(),),
                # Ctrl-C in a terminal is the launcher's to hear, and to pass on once.
                start_new_session=True,
            )
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._control, self._events = self._process.stdin, self._process.stdout
        host, port = self._address
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.pid = self._process.pid
        # Not on the command line, where everyone could read the passwords in it.
        self._tell(plan.to_json())

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
    def asked(self) -> bool:
        """Whether anyone asked it to stop."""
        return self._asked > 0

    @property
    def pids(self) -> dict[str, int]:
        """The children's processes, by name: `registry`, `queue`, `worker-1`, and so on, `api`."""
        while (event := self.next_event(0.0)) is not None and event["event"] != "ended":
            continue
        return dict(self._pids)

    def await_ready(self, timeout: float) -> None:
        """Return once the API answers and, if there are to be workers, one of them is alive.

        Args:
            timeout: Seconds without progress after which to give up; a server that reads a long
                append-only file makes progress.

        Raises:
            UnavailableError: If it does not come up, or is stopped meanwhile; the message says why.
        """
        # The first event tells that a predecessor, if any, has let go of the data directory.
        kind, patience = "", timeout + self._plan.lock_seconds
        while kind != "running":
            event = self.next_event(patience)
            if event is None:
                raise UnavailableError(
                    f"the servers made no progress in {patience:g} s{self._trouble}"
                )
            kind, patience = self._still_up(event)["event"], timeout
        deadline = time.monotonic() + timeout
        self._await_health("/health/live", deadline)
        if self._plan.workers:
            self._await_health("/health/ready", deadline)
        self._tell("ready")

    def next_event(self, timeout: float | None) -> Event | None:
        """The supervisor's next event.

        Returns:
            An object with the key `event`: `locked`, `loading`, `running`, `started` and `died`
            with `child` and `pid`, the latter with `reason` and `pause`, the seconds until it
            starts again; or `ended`, after which nothing comes. None if nothing came in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._heard:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            piece = b""
            if self._code is None:
                if not _readable(left, self._events):
                    return None
                piece = os.read(self._events.fileno(), 65_536)
            if not piece:
                return {"event": "ended", "code": self._code, "reason": "the supervisor died"}
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        event: Event = json.loads(line)
        self._note(event)
        return event

    def ask(self) -> None:
        """Ask it to stop, without waiting; asked again, it drops what API and workers still do."""
        self._asked += 1
        self._tell("stop" if self._asked == 1 else "hasten")

    def stop(self) -> int:
        """Stop everything in order and wait for it.

        Returns:
            0 if all ended in order, else another number.
        """
        if self._code is None:
            if not self._asked:
                self.ask()
            self._finish(2 * (self._plan.drain_seconds + SERVER_SECONDS + 2 * KILL_SECONDS))
        return self._code or 0

    def wait(self) -> int:
        """Wait until it ends, by `ask` or of itself.

        Returns:
            0 if all ended in order, else another number.
        """
        if self._code is None:
            self._finish(None)
        return self._code or 0

    def _finish(self, timeout: float | None) -> None:
        ended: Event | None = {"event": ""}
        while ended is not None and ended["event"] != "ended":
            ended = self.next_event(timeout)
        if ended is None:
            _say("the supervisor does not end; killing it")
        if ended is None or ended["code"] is None:
            # On Linux its children die with it; on macOS (untested here) nothing else tells them.
            # While it has not been waited for, no other group can have its number.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGTERM)
            self._process.kill()
            embedded_servers.remove_runtime_dir(self._runtime)
        status = self._process.wait(KILL_SECONDS)
        if status < 0:
            _say(f"the supervisor {how(status)}")
        self._pids.clear()
        # Before the pipes are closed, for a signal's handler may want to write to one.
        self._code = status if status >= 0 else 1
        self._control.close()
        self._events.close()

    def _tell(self, line: str) -> None:
        if self._code is not None:
            return
        # If it is gone there is nobody to tell; the end of its events says so to whoever waits.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._control.fileno(), line.encode() + b"\n")

    def _note(self, event: Event) -> None:
        match event["event"]:
            case "locked":
                self._runtime = event["runtime"]
            case "running":
                self.redis_url, self.queue_url = event["redis_url"], event["queue_url"]
            case "started":
                self._pids[event["child"]] = event["pid"]
            case "died":
                self._pids.pop(event["child"], None)
                self._trouble = f": {event['reason']}"

    def _still_up(self, event: Event) -> Event:
        if event["event"] == "ended":
            raise UnavailableError(event["reason"] or "stopped before it was ready")
        return event

    def _await_health(self, path: str, deadline: float) -> None:
        answer, pause = "no answer", FIRST_PAUSE
        while (left := deadline - time.monotonic()) > 0:
            connection = http.client.HTTPConnection(*self._address, timeout=left)
            try:
                connection.request("GET", path)
                self._await_answer(connection.sock, deadline)
                response = connection.getresponse()
                if response.status == 200:
                    return
                answer = f"{response.status} {response.read(500).decode(errors='replace')}"
            except TimeoutError:
                break
            except (OSError, http.client.HTTPException) as error:
                answer = f"{type(error).__name__} {error}"
            finally:
                connection.close()
            if (event := self.next_event(pause)) is not None:
                self._still_up(event)
            pause = min(1.5 * pause, LONGEST_PAUSE)
        raise UnavailableError(f"{self.url}{path} is not well, it says: {answer}{self._trouble}")

    def _await_answer(self, connection: socket.socket, deadline: float) -> None:
        # The socket listens from the first moment on, so the request waits in it for the API,
        # and the first answer comes the moment there is one.
        while (left := deadline - time.monotonic()) > 0:
            ready = _readable(left, connection, self._events)
            if connection in ready:
                return
            if ready and (event := self.next_event(0.0)) is not None:
                self._still_up(event)
        raise TimeoutError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that what hinders it shows at once.

    Raises:
        UnavailableError: If it cannot listen there.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        why = error.strerror or error
        raise UnavailableError(f"cannot listen on {host}, port {port}: {why}") from error
    # Connections inherit it. Whoever takes a listening socket over by its number cannot always
    # tell that it speaks TCP, leaves Nagle's algorithm on, and each answer takes 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _reachable(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104


def _readable(seconds: float | None, *files: HasFileno) -> list[HasFileno]:
    with selectors.DefaultSelector() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ, file)
        return [key.data for key, _ in selector.select(seconds)]


def _say(message: str) -> None:
    print(f"stitchwork: {message}", file=sys.stderr, flush=True)  # noqa: T201
