"""The supervisor: starts the servers, workers and API, restarts what dies, ends all in order.

It runs as a process of its own (`-m stitchwork.supervisor.supervisor FD`), reads its plan and then
single words from the control pipe on its standard input, and writes events as JSON lines to
its standard output. The end of the control pipe means the launcher is gone, and is an order to
stop like any other.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from stitchwork.errors import UnavailableError
from stitchwork.supervisor import embedded_servers
from stitchwork.supervisor.child import Child
from stitchwork.supervisor.control_pipe import Control
from stitchwork.supervisor.plan import KILL_SECONDS, SERVER_SECONDS, Plan, how

LOADING_SECONDS: Final = 600.0
STEADY_SECONDS: Final = 10.0
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
START_ATTEMPTS: Final = 3
WRONG_SETTING: Final = 2


class _Stopped(Exception):
    """Told to stop while still starting."""


class Supervisor:
    """Runs one plan, from its single thread; see the module."""

    def __init__(self, plan: Plan, control: Control, events: int, listener: socket.socket):
        self._plan = plan
        self._control = control
        self._events = events
        self._listener = listener
        self._children: list[Child] = []
        self._ready = self._stopping = self._hastened = self._forced = False

    def run(self) -> int:
        """Start, watch and end everything.

        Returns:
            The exit code: 0 if everything ended in order.
        """
        code, reason = 0, None
        try:
            with contextlib.ExitStack() as stack:
                self._start(stack)
                while not self._stopping:
                    self._wait(self._next_start())
                    self._start_due()
        except _Stopped:
            pass
        except (OSError, UnavailableError) as error:
            code, reason = 1, str(error)
        code = code or int(self._forced)
        self._report("ended", code=code, reason=reason)
        return code

    def _start(self, stack: contextlib.ExitStack) -> None:
        plan = self._plan
        redis_url, queue_url = plan.redis_url, plan.queue_url
        if redis_url is None:
            runtime, redis_url, queue_url = self._embed(stack)
        else:
            runtime = stack.enter_context(embedded_servers.metrics_dir())
            stack.callback(self._shut_down)
        env = dict(os.environ) | dict(plan.env)
        for name, url in (("STITCHWORK_REDIS_URL", redis_url), ("STITCHWORK_QUEUE_URL", queue_url)):
            env.pop(name, None)
            if url is not None:
                env[name] = url
        kill, fd = signal.SIGKILL, self._listener.fileno()
        for number in range(1, plan.workers + 1):
            name = f"worker-{number}"
            own = env | _figures(runtime, name) | {"STITCHWORK_WORKER_INDEX": str(number - 1)}
            self._launch(Child(name, plan.worker_command, own, kill, START_ATTEMPTS))
        command = (*plan.api_command, "--fd", str(fd))
        for number in range(1, plan.apis + 1):
            # They accept from one socket, so that a client never meets the gap a dead one leaves.
            name = "api" if number == 1 else f"api-{number}"
            own = env | _figures(runtime, name)
            self._launch(Child(name, command, own, kill, START_ATTEMPTS, keep=(fd,)))
        self._report("running", redis_url=redis_url, queue_url=queue_url)

    def _embed(self, stack: contextlib.ExitStack) -> tuple[Path, str, str]:
        """Start both servers; they end, and let go of the lock, when the stack is left."""
        plan = self._plan
        program = str(embedded_servers.binary())
        lock = stack.enter_context(embedded_servers.open_lock(plan.data_dir))
        if not embedded_servers.try_lock(lock):
            _say(f"waiting for another stitchwork to leave {plan.data_dir}")
        if not self._until(partial(embedded_servers.try_lock, lock), plan.lock_seconds):
            raise UnavailableError(f"another stitchwork uses this data directory: {plan.data_dir}")
        runtime = stack.enter_context(embedded_servers.runtime_dir(lock))
        self._report("locked", runtime=str(runtime))
        stack.callback(self._shut_down)
        sockets = []
        for name in (embedded_servers.REGISTRY, embedded_servers.QUEUE):
            home = plan.data_dir / name
            home.mkdir(mode=0o700, exist_ok=True)
            path = embedded_servers.socket_in(runtime, name)
            command = (program, *embedded_servers.options(name, home, path, plan.max_queue_bytes))
            env, keep, attempts = dict(os.environ), (lock.fileno(),), 1
            self._launch(
                Child(name, command, env, signal.SIGTERM, attempts, keep, home / "valkey.log")
            )
            sockets.append(path)
        for path in sockets:
            if not self._until(partial(self._answers, path), LOADING_SECONDS):
                raise UnavailableError(f"{path.stem} did not answer in {LOADING_SECONDS:g} s")
        redis_url, queue_url = map(embedded_servers.url_of, sockets)
        return runtime, redis_url, queue_url

    def _answers(self, path: Path) -> bool:
        state = embedded_servers.state(path)
        if state == "loading":
            self._report("loading", child=path.stem)
        return state == "up"

    def _launch(self, child: Child) -> None:
        self._children.append(child)
        self._report("started", child=child.name, pid=child.start())

    def _next_start(self) -> float | None:
        dues = [child.due for child in self._children if child.due is not None]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _start_due(self) -> None:
        for child in self._children:
            if self._stopping or child.due is None or child.due > time.monotonic():
                continue
            try:
                self._report("started", child=child.name, pid=child.start())
            except OSError as error:
                # Short of memory or processes: it may be better later, so it counts as a death.
                pause = self._put_off(child)
                _say(f"{child.name} does not start: {error}; tries again in {pause:.1f} s")

    def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Ask again and again, for what no event tells, and heed what happens meanwhile."""
        deadline, pause = time.monotonic() + seconds, 0.01
        while not done():
            if time.monotonic() >= deadline:
                return False
            self._wait(pause)
            if self._stopping:
                raise _Stopped
            pause = min(2 * pause, 0.1)
        return True

    def _wait(self, seconds: float | None) -> None:
        """Wait for an order or a death, at most so long, and take note of it."""
        for word in self._control.wait(seconds):
            self._ready |= word == "ready"
            self._hastened |= word == "hasten"
            self._stopping |= word == "stop"
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._bury(child, child.process)

    def _bury(self, child: Child, process: subprocess.Popen[bytes]) -> None:
        child.process = None
        ending = f"{child.name} (process {process.pid}) {how(process.returncode)}"
        if self._stopping:
            # A child that was still starting has no handler yet, and dies of the SIGTERM.
            if process.returncode not in (0, -signal.SIGTERM, -signal.SIGKILL):
                _say(ending)
            return
        told = "what it said is on standard error"
        if child.log is not None:
            told = embedded_servers.tail(child.log)
        reason = f"{ending}; {told}"
        pause = self._put_off(child)
        hopeless = process.returncode == WRONG_SETTING or child.failures >= child.attempts
        if hopeless and not self._ready:
            raise UnavailableError(reason)
        _say(f"{ending}; starts again in {pause:.1f} s")
        self._report("died", child=child.name, pid=process.pid, reason=reason, pause=pause)

    def _put_off(self, child: Child) -> float:
        lived = time.monotonic() - child.born
        child.failures = 1 if lived > STEADY_SECONDS else child.failures + 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(child.failures - 1, 10))
        child.due = time.monotonic() + pause
        return pause

    def _shut_down(self) -> None:
        self._stopping = True
        # From here on new clients are refused, not left waiting for an API that will not come.
        self._listener.close()
        for prefix in ("api", "worker-", embedded_servers.QUEUE, embedded_servers.REGISTRY):
            self._end([child for child in self._children if child.name.startswith(prefix)])

    def _end(self, children: Sequence[Child]) -> None:
        for child in children:
            if child.process is not None:
                child.process.terminate()
        # Whoever is in a hurry gives up what was being answered, never what was promised to last.
        servants = all(child.log is None for child in children)
        seconds = self._plan.drain_seconds if servants else SERVER_SECONDS
        self._await_end(children, seconds, hurried=lambda: servants and self._hastened)
        for child in children:
            if child.process is not None:
                self._forced |= not self._hastened
                _say(f"{child.name} (process {child.process.pid}) is killed before it ended")
                child.process.kill()
        self._await_end(children, KILL_SECONDS, hurried=lambda: False)

    def _await_end(
        self, children: Sequence[Child], seconds: float, hurried: Callable[[], bool]
    ) -> None:
        deadline = time.monotonic() + seconds
        while any(child.process is not None for child in children) and not hurried():
            if (left := deadline - time.monotonic()) <= 0:
                return
            self._wait(left)

    def _report(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event} | fields) + "\n"
        # Nobody reads any more, or nobody has for a long time; either way it must not hold us up.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._events, line.encode())


def _figures(folder: Path, name: str) -> dict[str, str]:
    """Any API answers on the one address, so each must find the figures of all children."""
    return {"STITCHWORK_METRICS_FILE": str(folder / name)}


def _say(message: str) -> None:
    # A terminal that is gone or a reader that hangs must not keep the children from their end.
    with contextlib.suppress(OSError):
        if select.select([], [sys.stderr], [], 0)[1]:
            os.write(sys.stderr.fileno(), f"stitchwork: {message}\n".encode())


def main() -> int:
    """Run the plan that comes on the control pipe; returns the exit code."""
    control = Control(sys.stdin.fileno())
    plan = control.read_plan()
    if plan is None:
        return 0
    events = sys.stdout.fileno()
    os.set_blocking(events, False)
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        return Supervisor(plan, control, events, listener).run()


if __name__ == "__main__":
    sys.exit(main())
