"""The supervisor: starts servers, workers and API, restarts what dies, stops all in order.

It runs as a separate process (`-m stitchwork.supervisor.supervisor FD`), reads its plan and then
single words from the control pipe on its standard input, and writes events as JSON lines to its
standard output. The end of the control pipe means that the launcher is gone, and is an order to
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
from stitchwork.redis import PREFIX
from stitchwork.registry.change_log_start import BEGIN, KEYS
from stitchwork.supervisor import append_only_file, disk_guard, embedded_servers
from stitchwork.supervisor.child import Child
from stitchwork.supervisor.control_pipe import ControlPipe
from stitchwork.supervisor.disk_guard import DiskGuard
from stitchwork.supervisor.plan import KILL_SECONDS, SERVER_SECONDS, Plan, describe_exit

LOADING_SECONDS: Final = 600.0
STABLE_SECONDS: Final = 10.0
"""A child that lives longer starts with a fresh count of failures."""
MIN_PAUSE: Final = 0.1
MAX_PAUSE: Final = 5.0
START_ATTEMPTS: Final = 3
WRONG_SETTING: Final = 2


class _StopRequestedError(Exception):
    """A stop was requested during the start."""


class Supervisor:
    """Runs one plan in a single thread; see the module."""

    def __init__(self, plan: Plan, control: ControlPipe, events: int, listener: socket.socket):
        self._plan = plan
        self._control = control
        self._events = events
        self._listener = listener
        self._children: list[Child] = []
        self._disk_guard: DiskGuard | None = None
        self._ready = self._stopping = self._in_hurry = self._killed = False

    def run(self) -> int:
        """Start, watch and stop everything.

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
                    if self._disk_guard is not None:
                        self._disk_guard.check()
        except _StopRequestedError:
            pass
        except (OSError, UnavailableError) as error:
            code, reason = 1, str(error)
        code = code or int(self._killed)
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
            own = env | _metrics_file(runtime, name) | {"STITCHWORK_WORKER_INDEX": str(number - 1)}
            self._launch(Child(name, plan.worker_command, own, kill, START_ATTEMPTS))
        command = (*plan.api_command, "--fd", str(fd))
        if plan.apis > 1:
            command += ("--share-grpc-port",)
        for number in range(1, plan.apis + 1):
            # They share one socket, so that no client is refused while one of them restarts.
            name = "api" if number == 1 else f"api-{number}"
            own = env | _metrics_file(runtime, name)
            self._launch(Child(name, command, own, kill, START_ATTEMPTS, inherited_fds=(fd,)))
        self._report("running", redis_url=redis_url, queue_url=queue_url)

    def _embed(self, stack: contextlib.ExitStack) -> tuple[Path, str, str]:
        """Start both servers; they end, and release the lock, when the stack is left."""
        plan = self._plan
        program = str(embedded_servers.binary())
        lock = stack.enter_context(embedded_servers.open_lock(plan.data_dir))
        if not embedded_servers.try_lock(lock):
            _log(f"waiting for another stitchwork to release {plan.data_dir}")
            self._report("waiting")
        if not self._until(partial(embedded_servers.try_lock, lock), plan.lock_seconds):
            raise UnavailableError(f"another stitchwork uses this data directory: {plan.data_dir}")
        runtime = stack.enter_context(embedded_servers.runtime_dir(lock))
        self._report("locked", runtime=str(runtime))
        stack.callback(self._shut_down)
        sockets = []
        is_new = not (plan.data_dir / embedded_servers.REGISTRY).exists()
        for name in (embedded_servers.REGISTRY, embedded_servers.QUEUE):
            home = plan.data_dir / name
            home.mkdir(mode=0o700, exist_ok=True)
            path = embedded_servers.socket_in(runtime, name)
            command = (program, *embedded_servers.options(name, home, path, plan.max_queue_bytes))
            env, inherited, attempts = dict(os.environ), (lock.fileno(),), 1
            self._launch(
                Child(name, command, env, signal.SIGTERM, attempts, inherited, home / "valkey.log")
            )
            sockets.append(path)
        for path in sockets:
            if not self._until(partial(self._answers, path), LOADING_SECONDS):
                raise UnavailableError(f"{path.stem} did not answer in {LOADING_SECONDS:g} s")
        self._disk_guard = DiskGuard(plan.data_dir, sockets[0], _log)
        redis_url, queue_url = map(embedded_servers.socket_url, sockets)
        if is_new:
            begin_change_log(sockets[0])
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
        times = [child.restart_at for child in self._children if child.restart_at is not None]
        pauses = [max(0.0, min(times) - time.monotonic())] if times else []
        if self._disk_guard is not None:
            pauses.append(disk_guard.INTERVAL_SECONDS)
        return min(pauses, default=None)

    def _start_due(self) -> None:
        for child in self._children:
            is_due = child.restart_at is not None and child.restart_at <= time.monotonic()
            if self._stopping or not is_due:
                continue
            try:
                self._report("started", child=child.name, pid=child.start())
            except OSError as error:
                # Memory or processes may be free later, so it counts as a death.
                pause = self._schedule(child)
                _log(f"{child.name} does not start: {error}; next attempt in {pause:.1f} s")

    def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Poll a condition that has no event, and handle orders and deaths in the meantime."""
        deadline, pause = time.monotonic() + seconds, 0.01
        while not done():
            if time.monotonic() >= deadline:
                return False
            self._wait(pause)
            if self._stopping:
                raise _StopRequestedError
            pause = min(2 * pause, 0.1)
        return True

    def _wait(self, seconds: float | None) -> None:
        """Wait for an order or a death for a bounded time, and record it."""
        for word in self._control.wait(seconds):
            self._ready |= word == "ready"
            self._in_hurry |= word == "hurry"
            self._stopping |= word == "stop"
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._handle_death(child, child.process)

    def _handle_death(self, child: Child, process: subprocess.Popen[bytes]) -> None:
        child.process = None
        ending = f"{child.name} (process {process.pid}) {describe_exit(process.returncode)}"
        if self._stopping:
            # A child that is still starting has no handler yet, and dies of SIGTERM.
            if process.returncode not in (0, -signal.SIGTERM, -signal.SIGKILL):
                _log(ending)
            return
        output = "its output is on standard error"
        if child.log is not None:
            output = embedded_servers.tail(child.log)
            if append_only_file.REFUSAL in output and self._repair(child):
                return
        reason = f"{ending}; {output}"
        pause = self._schedule(child)
        is_final = process.returncode == WRONG_SETTING or child.failures >= child.attempts
        if is_final and not self._ready:
            raise UnavailableError(reason)
        _log(f"{ending}; starts again in {pause:.1f} s")
        self._report("died", child=child.name, pid=process.pid, reason=reason, pause=pause)

    def _repair(self, child: Child) -> bool:
        """Start the registry again without the incomplete end of its file, if it has one."""
        assert child.log is not None  # noqa: S101
        loss = append_only_file.repair(child.log.parent)
        if loss is None:
            return False
        _log(loss)
        self._report("started", child=child.name, pid=child.start())
        return True

    def _schedule(self, child: Child) -> float:
        """Schedule the next start of a child that died; returns the seconds until then."""
        lived = time.monotonic() - child.started_at
        child.failures = 1 if lived > STABLE_SECONDS else child.failures + 1
        pause = min(MAX_PAUSE, MIN_PAUSE * 2.0 ** min(child.failures - 1, 10))
        child.restart_at = time.monotonic() + pause
        return pause

    def _shut_down(self) -> None:
        self._stopping = True
        # From now on new clients are refused, rather than left waiting for an API.
        self._listener.close()
        for prefix in ("api", "worker-", embedded_servers.QUEUE, embedded_servers.REGISTRY):
            self._stop([child for child in self._children if child.name.startswith(prefix)])

    def _stop(self, children: Sequence[Child]) -> None:
        for child in children:
            if child.process is not None:
                child.process.terminate()
        # A hurry drops requests in progress, never data that a server has promised to store.
        may_hurry = all(child.log is None for child in children)
        seconds = self._plan.drain_seconds if may_hurry else SERVER_SECONDS
        self._await_exit(children, seconds, in_hurry=lambda: may_hurry and self._in_hurry)
        for child in children:
            if child.process is not None:
                self._killed |= not self._in_hurry
                _log(
                    f"{child.name} (process {child.process.pid}) did not end in time and is killed"
                )
                child.process.kill()
        self._await_exit(children, KILL_SECONDS, in_hurry=lambda: False)

    def _await_exit(
        self, children: Sequence[Child], seconds: float, in_hurry: Callable[[], bool]
    ) -> None:
        deadline = time.monotonic() + seconds
        while any(child.process is not None for child in children) and not in_hurry():
            if (left := deadline - time.monotonic()) <= 0:
                return
            self._wait(left)

    def _report(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event} | fields) + "\n"
        # The launcher is gone, or has not read for a long time; neither may block the supervisor.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._events, line.encode())


def begin_change_log(registry: Path) -> None:
    """Let the first registrations of a new registry not wait for processes of earlier ones.

    Args:
        registry: The socket of its server.

    Raises:
        UnavailableError: If the server refuses it.
    """
    keys = [PREFIX + key for key in KEYS]
    epoch = os.urandom(16).hex()
    words = ("EVAL", BEGIN, str(len(keys)), *keys, epoch)
    # Its first write to the disk, which may be busy.
    reply = embedded_servers.send_command(registry, *words, seconds=SERVER_SECONDS)
    if not reply.startswith(b":"):
        reason = reply.decode(errors="replace").strip() or "it did not answer"
        raise UnavailableError(f"the new registry cannot be written: {reason}")


def _metrics_file(folder: Path, name: str) -> dict[str, str]:
    """The setting of a child's metrics file: each API reports the metrics of all children."""
    return {"STITCHWORK_METRICS_FILE": str(folder / name)}


def _log(message: str) -> None:
    # A closed terminal or a blocked reader must not keep the children from ending.
    with contextlib.suppress(OSError):
        if select.select([], [sys.stderr], [], 0)[1]:
            os.write(sys.stderr.fileno(), f"stitchwork: {message}\n".encode())


def main() -> int:
    """Run the plan that the control pipe begins with; returns the exit code."""
    control = ControlPipe(sys.stdin.fileno())
    plan = control.read_plan()
    if plan is None:
        return 0
    events = sys.stdout.fileno()
    os.set_blocking(events, False)
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        return Supervisor(plan, control, events, listener).run()


if __name__ == "__main__":
    sys.exit(main())
