"""The launcher with real processes and real Valkey; API and workers are tiny programs here."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from stitchwork.cli.main import main
from stitchwork.errors import UnavailableError
from stitchwork.settings import Settings
from stitchwork.supervisor import Plan, ServiceProcess, embedded_servers, start
from stitchwork.supervisor.service_process import listen

BOUND = 60.0
LINUX = sys.platform == "linux"

API = """
import os, signal, socket, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

def workers():
    with socket.socket(socket.AF_UNIX) as queue:
        queue.connect(urlsplit(os.environ["STITCHWORK_QUEUE_URL"]).path)
        queue.sendall(b"SCARD workers\\r\\n")
        return int(queue.recv(64)[1:])

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        well = self.path == "/health/live" or workers()
        self.send_response(200 if well else 503)
        self.end_headers()
        self.wfile.write(os.environ.get("STITCHWORK_WORD", "").encode())
    def log_message(self, *_): pass

def end(*_):
    print("api ends", file=sys.stderr)
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
server = HTTPServer(("", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
server.serve_forever()
"""

WORKER = """
import os, signal, socket, sys
from urllib.parse import urlsplit

queue = socket.socket(socket.AF_UNIX)
queue.connect(urlsplit(os.environ["STITCHWORK_QUEUE_URL"]).path)

def ask(line):
    queue.sendall(line + b"\\r\\n")
    return queue.recv(64)

def end(*_):
    print("worker ends, queue says", ask(b"PING").decode(), file=sys.stderr)
    sys.exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else end)
ask(b"SADD workers %d" % os.getpid())
while True:
    signal.pause()
"""


def program(text: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", text, *words)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        port=0,
        data_dir=tmp_path / "data",
        api_command=program(API),
        worker_command=program(WORKER),
    )


def await_gone(pids: Iterable[int], seconds: float = BOUND) -> None:
    """Wait until none of the processes lives; they need not be children of this one."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        try:
            left = max(0.0, deadline - time.monotonic())
            if sys.platform == "linux":
                handle = os.pidfd_open(pid)
                ended: list[Any] = select.select([handle], [], [], left)[0]
            else:
                queue = select.kqueue()
                handle = queue.fileno()
                death = select.kevent(pid, select.KQ_FILTER_PROC, fflags=select.KQ_NOTE_EXIT)
                ended = queue.control([death], 1, left)
        except ProcessLookupError:
            continue
        os.close(handle)
        assert ended, f"process {pid} still lives"


def processes(column: int, value: int) -> list[int]:
    """Live processes by a column of `ps`: 1 is the parent, 2 the group."""
    shown = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in shown.stdout.splitlines()]
    return [int(row[0]) for row in rows if int(row[column]) == value and row[3][0] != "Z"]


def client_of(url: str | None) -> redis.Redis:
    assert url is not None
    return redis.Redis.from_url(url, decode_responses=True)


def socket_dir(running: ServiceProcess) -> Path:
    assert running.redis_url is not None
    return Path(urlsplit(running.redis_url).path).parent


def event_of(running: ServiceProcess, kind: str, child: str) -> dict[str, Any]:
    deadline = time.monotonic() + BOUND
    while (event := running.next_event(deadline - time.monotonic())) is not None:
        if (event["event"], event.get("child")) == (kind, child):
            return event
    pytest.fail(f"no {kind} of {child}")


@contextmanager
def launcher(plan: Plan) -> Iterator[subprocess.Popen[str]]:
    """`serve` as a process of its own, whose output can be read line by line."""
    text = "import sys; from stitchwork.supervisor import Plan, serve; "
    text += "sys.exit(serve(Plan.from_json(sys.argv[1])))"
    with subprocess.Popen(
        [sys.executable, "-c", text, plan.to_json()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(stream: Any, word: str) -> str:
    """The next line with a word in it; the test's own time limit bounds the wait."""
    for line in stream:
        if word in line:
            return str(line)
    pytest.fail(f"ended without {word!r}")


def family_of(process: subprocess.Popen[str]) -> list[int]:
    """The supervisor of a launcher, then the supervisor's children."""
    (supervisor,) = processes(1, process.pid)
    return [supervisor, *(pid for pid in processes(2, supervisor) if pid != supervisor)]


def test_start_and_stop_leave_nothing(plan: Plan) -> None:
    running = start(replace(plan, workers=2, env={"STITCHWORK_WORD": "hello"}))
    pids, folder = running.pids, socket_dir(running)
    assert set(pids) == {"registry", "queue", "worker-1", "worker-2", "api"}
    assert httpx.get(f"{running.url}/health/ready").text == "hello"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o700}
    assert len(os.fsencode(folder / "registry.sock")) < 100

    assert running.stop() == running.wait() == 0
    await_gone([running.pid, *pids.values()], 0)
    assert not folder.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.url)


def test_the_embedded_servers_are_found_while_they_run(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    with start(plan) as running:
        urls = {"redis_url": running.redis_url, "queue_url": running.queue_url}
        assert embedded_servers.embedded(plan.data_dir) == urls
        for command in ("status", "keys list", "dead list"):
            words = [*command.split(), "--json", "--data-dir", str(plan.data_dir)]
            # No worker lives, which is all that `status` has to complain of.
            assert main(words) == (1 if command == "status" else 0), capsys.readouterr().err
            assert json.loads(capsys.readouterr().out) in ([], {"workers": [], "queues": {}})
    for folder in (plan.data_dir, plan.data_dir / "none"):
        with pytest.raises(UnavailableError, match="no `stitchwork serve` runs on"):
            embedded_servers.embedded(folder)


def test_the_servers_are_what_each_is_for_and_data_survive(plan: Plan) -> None:
    with start(plan) as running, client_of(running.redis_url) as registry:
        with client_of(running.queue_url) as queue:
            wanted = {"appendonly": "no", "save": "", "maxmemory-policy": "volatile-lru"}
            wanted |= {"maxmemory": str(plan.max_queue_bytes), "port": "0"}
            assert queue.config_get(*wanted) == wanted
        wanted = {"appendonly": "yes", "appendfsync": "always", "save": "", "port": "0"}
        wanted |= {"maxmemory-policy": "noeviction"}
        assert registry.config_get(*wanted) == wanted
        registry.set("kept", "yes")
    with start(plan) as running, client_of(running.redis_url) as registry:
        assert registry.get("kept") == "yes"


def test_a_killed_launcher_leaves_no_orphan_and_the_next_start_waits(plan: Plan) -> None:
    with launcher(plan) as first:
        read_until(first.stdout, "http://")
        supervisor, *children = family_of(first)
        assert len(children) == 4
        # A server that is slow to close keeps the lock; the next start must wait for it.
        slow = min(children)
        os.kill(slow, signal.SIGSTOP)
        first.kill()
        with launcher(plan) as second:
            read_until(second.stderr, "waiting for another stitchwork")
            os.kill(slow, signal.SIGCONT)
            read_until(second.stdout, "http://")
            await_gone([supervisor, *children])
            second.terminate()
            assert second.wait(BOUND) == 0


@pytest.mark.skipif(not LINUX, reason="macOS cannot tie a child to its parent")
def test_a_killed_supervisor_leaves_no_orphan(plan: Plan) -> None:
    with start(plan) as running:
        pids, folder = running.pids, socket_dir(running)
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait() != 0
        await_gone(pids.values())
    assert not folder.exists()
    assert "bye bye" in embedded_servers.tail(plan.data_dir / "registry" / "valkey.log")
    with embedded_servers.open_lock(plan.data_dir) as lock:
        assert embedded_servers.try_lock(lock)


def test_the_launcher_of_a_killed_supervisor_fails(plan: Plan) -> None:
    with launcher(plan) as process:
        read_until(process.stdout, "http://")
        os.kill(family_of(process)[0], signal.SIGKILL)
        read_until(process.stderr, "the supervisor was killed by SIGKILL")
        assert process.wait(BOUND) == 1


def test_what_was_acknowledged_survives_the_kill_of_everything(plan: Plan) -> None:
    with launcher(plan) as process:
        read_until(process.stdout, "http://")
        family = family_of(process)
        folder = Path((plan.data_dir / "lock").read_text())
        with client_of(embedded_servers.url_of(folder / "registry.sock")) as registry:
            registry.set("promised", "yes")
            assert registry.execute_command("WAITAOF", 1, 0, 5000)[0] == 1
        process.kill()
        os.killpg(family[0], signal.SIGKILL)
        await_gone(family)
    assert folder.exists()
    with start(plan) as running, client_of(running.redis_url) as registry:
        assert registry.get("promised") == "yes"
        assert not folder.exists()


@pytest.mark.parametrize("name", ["worker-1", "api", "registry", "queue"])
def test_what_dies_is_started_again(
    plan: Plan, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with start(plan) as running, client_of(running.redis_url) as registry:
        registry.set("kept", "yes")
        before = running.pids
        os.kill(before[name], signal.SIGKILL)
        assert event_of(running, "died", name)["pid"] == before[name]
        # Whoever asks meanwhile waits; the socket they connect to never went away.
        assert httpx.get(f"{running.url}/health/live", timeout=BOUND).status_code == 200
        assert event_of(running, "started", name)["pid"] != before[name]
        assert {**before, name: 0} == {**running.pids, name: 0}
    assert f"{name} (process {before[name]}) was killed by SIGKILL" in capfd.readouterr().err
    with start(plan) as running, client_of(running.redis_url) as registry:
        assert registry.get("kept") == "yes"


def test_a_child_that_keeps_dying_is_started_less_and_less_often(plan: Plan) -> None:
    with start(plan) as running:
        pauses = []
        for _ in range(3):
            os.kill(running.pids["worker-1"], signal.SIGKILL)
            died = event_of(running, "died", "worker-1")
            event_of(running, "started", "worker-1")
            pauses.append(died["pause"])
    assert pauses == pytest.approx([0.1, 0.2, 0.4])


def test_a_port_in_use_is_said_at_once(plan: Plan) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UnavailableError, match=rf"cannot listen on 127.0.0.1, port {port}: Addr"
        ):
            start(replace(plan, port=port))
    assert not plan.data_dir.exists()


def test_connections_of_the_socket_do_not_wait_to_fill_a_packet() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_data_directory_has_one_service(plan: Plan) -> None:
    with start(plan) as running:
        with pytest.raises(UnavailableError, match="another stitchwork uses this data directory"):
            start(replace(plan, lock_seconds=0.1))
        assert httpx.get(f"{running.url}/health/ready").status_code == 200


def test_servers_of_ones_own_are_used_and_none_embedded(plan: Plan) -> None:
    with start(plan) as owner:
        own = replace(
            plan,
            data_dir=plan.data_dir / "unused",
            redis_url=owner.redis_url,
            queue_url=owner.queue_url,
        )
        with start(own) as running:
            assert set(running.pids) == {"worker-1", "api"}
            assert (running.redis_url, running.queue_url) == (owner.redis_url, owner.queue_url)
        assert not own.data_dir.exists()
        assert set(owner.pids) == {"registry", "queue", "worker-1", "api"}


def damage(plan: Plan) -> Plan:
    folder = plan.data_dir / "registry" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("nonsense\n")
    return plan


def misplace(plan: Plan) -> Plan:
    plan.data_dir.write_text("a file")
    return plan


def supervisors() -> list[int]:
    """Children of this process that lead a group of their own."""
    return [pid for pid in processes(1, os.getpid()) if pid in processes(2, pid)]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda plan: replace(plan, api_command=program("raise SystemExit(2)")),
            "api .* exited with 2",
        ),
        (
            lambda plan: replace(plan, worker_command=program("raise SystemExit(1)")),
            "worker-1 .* exited",
        ),
        (lambda plan: replace(plan, api_command=("/no/such",)), "No such file"),
        (damage, r"registry .* exited with 1; (.|\n)*Invalid AOF manifest"),
        (misplace, "File exists|Not a directory"),
    ],
)
def test_what_cannot_start_is_named_and_nothing_stays(
    plan: Plan, spoil: Callable[[Plan], Plan], reason: str
) -> None:
    # Other tests may have services of their own under this process.
    before = supervisors()
    with pytest.raises(UnavailableError, match=reason):
        start(spoil(plan))
    assert supervisors() == before
    if plan.data_dir.is_dir():
        with embedded_servers.open_lock(plan.data_dir) as lock:
            assert embedded_servers.try_lock(lock)


def test_what_never_gets_ready_is_given_up(plan: Plan) -> None:
    idle = program("import signal; signal.pause()")
    with pytest.raises(UnavailableError, match="/health/ready is not well, it says: 503"):
        start(replace(plan, worker_command=idle), ready_timeout=3.0)
    with pytest.raises(UnavailableError, match="/health/live is not well, it says: no answer"):
        start(replace(plan, api_command=idle), ready_timeout=0.5)


def test_an_interrupt_ends_all_in_order(plan: Plan) -> None:
    with launcher(plan) as process:
        assert process.stdout is not None
        assert read_until(process.stdout, "http://").startswith("stitchwork answers on http://127")
        family = family_of(process)
        process.send_signal(signal.SIGINT)
        said, told = process.communicate(timeout=BOUND)
        assert process.returncode == 0
    assert said == ""
    assert [line for line in told.splitlines() if line] == [
        "api ends",
        "worker ends, queue says +PONG",
    ]
    assert "bye bye" in embedded_servers.tail(plan.data_dir / "registry" / "valkey.log")
    await_gone(family, 0)


def test_a_second_interrupt_does_not_wait_for_a_deaf_worker(plan: Plan) -> None:
    with launcher(replace(plan, worker_command=program(WORKER, "deaf"))) as process:
        read_until(process.stdout, "http://")
        family = family_of(process)
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, "api ends")
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND) == 0
    await_gone(family, 0)


def test_an_interrupt_before_it_is_ready_ends_it_as_well(plan: Plan) -> None:
    idle = program("import signal, sys; print('up', file=sys.stderr); signal.pause()")
    with launcher(replace(plan, worker_command=idle)) as process:
        read_until(process.stderr, "up")
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND) == 0


def test_a_deaf_worker_is_killed_when_its_time_is_over(plan: Plan) -> None:
    deaf = replace(plan, worker_command=program(WORKER, "deaf"), drain_seconds=0.2)
    running = start(deaf)
    pids = running.pids
    assert running.stop() == 1
    await_gone(pids.values(), 0)


def test_a_server_that_still_reads_its_file_is_loading_not_down(tmp_path: Path) -> None:
    path, home = tmp_path / "s", tmp_path / "home"
    home.mkdir()
    command = [
        str(embedded_servers.binary()),
        *embedded_servers.options(embedded_servers.REGISTRY, home, path, 0),
    ]
    assert embedded_servers.state(path) == "down"
    seen: set[str] = set()
    # The second time it reads for a second: 1000 keys, each a millisecond.
    for delay in ("0", "1000"):
        command += ["--key-load-delay", delay]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            deadline = time.monotonic() + BOUND
            while (state := embedded_servers.state(path)) != "up" and time.monotonic() < deadline:
                seen.add(state)
            with client_of(embedded_servers.url_of(path)) as client:
                client.mset({f"key-{number}": "value" for number in range(1000)})
                client.bgrewriteaof()
                while client.info("persistence")["aof_rewrite_in_progress"]:
                    assert time.monotonic() < deadline
            server.terminate()
            assert server.wait(BOUND) == 0
    assert "loading" in seen


def test_the_plan_reaches_the_children_as_settings(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        request_timeout_seconds=7.5,
        offline=True,
        model_roots=(Path("/a"), Path("/b")),
    )
    plan = Plan.of(settings)
    assert plan.env["STITCHWORK_REQUEST_TIMEOUT_SECONDS"] == "7.5"
    assert plan.env["STITCHWORK_MODEL_ROOTS"] == "/a:/b"
    assert "STITCHWORK_WORKERS" not in plan.env
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.MonkeyPatch.context() as patch:
        for name, value in plan.env.items():
            patch.setenv(name, value)
        assert Settings() == settings


def test_a_long_runtime_directory_is_not_used(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with start(replace(plan, workers=0)) as running:
        assert socket_dir(running).parent == Path("/tmp")  # noqa: S108
        assert "worker-1" not in running.pids
