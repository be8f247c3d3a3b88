"""The supervisor with real processes and real Valkey; API and workers are tiny programs."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from stitchwork.processes.listener import listen
from stitchwork.settings import Settings
from stitchwork.supervisor import Plan, ServiceProcess, embedded_servers, start
from tests.support.processes import BOUND, await_gone, family_of, processes, read_until

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
        healthy = self.path == "/health/live" or workers()
        self.send_response(200 if healthy else 503)
        self.end_headers()
        self.wfile.write(os.environ.get("GREETING", "").encode())
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

def call(line):
    queue.sendall(line + b"\\r\\n")
    return queue.recv(64)

def end(*_):
    print("worker ends, queue says", call(b"PING").decode(), file=sys.stderr)
    sys.exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else end)
call(b"SADD workers %d" % os.getpid())
while True:
    signal.pause()
"""


def program(text: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", text, *arguments)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        port=0,
        data_dir=tmp_path / "data",
        api_command=program(API),
        worker_command=program(WORKER),
    )


def client_of(url: str | None) -> redis.Redis:
    assert url is not None
    return redis.Redis.from_url(url, decode_responses=True)


def socket_dir(process: ServiceProcess) -> Path:
    assert process.redis_url is not None
    return Path(urlsplit(process.redis_url).path).parent


def event_of(process: ServiceProcess, kind: str, child: str) -> dict[str, Any]:
    deadline = time.monotonic() + BOUND
    while (event := process.next_event(deadline - time.monotonic())) is not None:
        if (event["event"], event.get("child")) == (kind, child):
            return event
    pytest.fail(f"no {kind} of {child}")


@contextmanager
def launcher(plan: Plan) -> Iterator[subprocess.Popen[str]]:
    """`serve` as a separate process, whose output can be read line by line."""
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


def test_stop_after_start_leaves_no_process_and_no_file(plan: Plan) -> None:
    process = start(replace(plan, workers=2, env={"GREETING": "hello"}))
    pids, folder = process.pids, socket_dir(process)
    assert set(pids) == {"registry", "queue", "worker-1", "worker-2", "api"}
    assert httpx.get(f"{process.url}/health/ready").text == "hello"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o700}
    assert len(os.fsencode(folder / "registry.sock")) < 100

    assert process.stop() == process.wait() == 0
    await_gone([process.pid, *pids.values()], 0)
    assert not folder.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(process.url)


def test_embedded_urls_while_serve_runs_name_its_servers(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    with start(plan) as process:
        urls = {"redis_url": process.redis_url, "queue_url": process.queue_url}
        assert embedded_servers.embedded_urls(plan.data_dir) == urls
        for command in ("status", "api-keys list", "dead-letters list"):
            words = [*command.split(), "--json", "--data-dir", str(plan.data_dir)]
            # No worker is alive, so `status` ends with 1.
            assert main(words) == (1 if command == "status" else 0), capsys.readouterr().err
            empty: dict[str, object] = {"workers": [], "queues": {}, "unavailable_shards": []}
            result = json.loads(capsys.readouterr().out)
            assert result == (empty if command == "status" else [])
    for folder in (plan.data_dir, plan.data_dir / "none"):
        with pytest.raises(UnavailableError, match="no `stitchwork serve` runs on"):
            embedded_servers.embedded_urls(folder)


def test_embedded_servers_have_their_options_and_the_registry_is_durable(plan: Plan) -> None:
    with start(plan) as process, client_of(process.redis_url) as registry:
        with client_of(process.queue_url) as queue:
            expected = {"appendonly": "no", "save": "", "maxmemory-policy": "volatile-lru"}
            expected |= {"maxmemory": str(plan.max_queue_bytes), "port": "0"}
            assert queue.config_get(*expected) == expected
        expected = {"appendonly": "yes", "appendfsync": "always", "save": "", "port": "0"}
        expected |= {"maxmemory-policy": "noeviction"}
        assert registry.config_get(*expected) == expected
        registry.set("stored", "yes")
    with start(plan) as process, client_of(process.redis_url) as registry:
        assert registry.get("stored") == "yes"


def test_killed_launcher_leaves_no_orphan_and_the_next_start_waits(plan: Plan) -> None:
    with launcher(plan) as first:
        read_until(first.stdout, "http://")
        supervisor, *children = family_of(first)
        assert len(children) == 4
        # A server that is slow to stop holds the lock; the next start must wait for it.
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
def test_killed_supervisor_leaves_no_orphan(plan: Plan) -> None:
    with start(plan) as process:
        pids, folder = process.pids, socket_dir(process)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() != 0
        await_gone(pids.values())
    assert not folder.exists()
    assert "bye bye" in embedded_servers.tail(plan.data_dir / "registry" / "valkey.log")
    with embedded_servers.open_lock(plan.data_dir) as lock:
        assert embedded_servers.try_lock(lock)


def test_launcher_of_a_killed_supervisor_fails(plan: Plan) -> None:
    with launcher(plan) as process:
        read_until(process.stdout, "http://")
        os.kill(family_of(process)[0], signal.SIGKILL)
        read_until(process.stderr, "the supervisor was killed by SIGKILL")
        assert process.wait(BOUND) == 1


def test_acknowledged_write_survives_the_kill_of_everything(plan: Plan) -> None:
    with launcher(plan) as process:
        read_until(process.stdout, "http://")
        family = family_of(process)
        folder = Path((plan.data_dir / "lock").read_text())
        with client_of(embedded_servers.socket_url(folder / "registry.sock")) as registry:
            registry.set("acknowledged", "yes")
            assert registry.execute_command("WAITAOF", 1, 0, 5000)[0] == 1
        process.kill()
        os.killpg(family[0], signal.SIGKILL)
        await_gone(family)
    assert folder.exists()
    with start(plan) as restarted, client_of(restarted.redis_url) as registry:
        assert registry.get("acknowledged") == "yes"
        assert not folder.exists()


@pytest.mark.parametrize("name", ["worker-1", "api", "registry", "queue"])
def test_killed_child_is_started_again(
    plan: Plan, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with start(plan) as process, client_of(process.redis_url) as registry:
        registry.set("stored", "yes")
        before = process.pids
        os.kill(before[name], signal.SIGKILL)
        assert event_of(process, "died", name)["pid"] == before[name]
        # A request in the meantime waits: the socket that it connects to stays open.
        assert httpx.get(f"{process.url}/health/live", timeout=BOUND).status_code == 200
        assert event_of(process, "started", name)["pid"] != before[name]
        assert {**before, name: 0} == {**process.pids, name: 0}
    assert f"{name} (process {before[name]}) was killed by SIGKILL" in capfd.readouterr().err
    with start(plan) as process, client_of(process.redis_url) as registry:
        assert registry.get("stored") == "yes"


def test_child_that_dies_repeatedly_is_started_after_growing_pauses(plan: Plan) -> None:
    with start(plan) as process:
        pauses = []
        for _ in range(3):
            os.kill(process.pids["worker-1"], signal.SIGKILL)
            died = event_of(process, "died", "worker-1")
            event_of(process, "started", "worker-1")
            pauses.append(died["pause"])
    assert pauses == pytest.approx([0.1, 0.2, 0.4])


def test_port_in_use_is_refused_at_once(plan: Plan) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UnavailableError, match=rf"cannot listen on 127.0.0.1, port {port}: Addr"
        ):
            start(replace(plan, port=port))
    assert not plan.data_dir.exists()


def test_listening_socket_disables_nagles_algorithm() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_second_service_on_a_data_directory_is_refused(plan: Plan) -> None:
    with start(plan) as process:
        with pytest.raises(UnavailableError, match="another stitchwork uses this data directory"):
            start(replace(plan, lock_seconds=0.1))
        assert httpx.get(f"{process.url}/health/ready").status_code == 200


def test_copy_of_a_data_directory_leaves_the_live_service_alone(plan: Plan, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with start(plan) as process:
        copy.mkdir()
        shutil.copy(plan.data_dir / "lock", copy / "lock")
        with pytest.raises(UnavailableError) as error:
            start(replace(plan, data_dir=copy))
        assert str(copy) in str(error.value)
        assert str(plan.data_dir) in str(error.value)
        with pytest.raises(UnavailableError, match="no `stitchwork serve` runs on"):
            embedded_servers.embedded_urls(copy)
        assert httpx.get(f"{process.url}/health/ready").status_code == 200
        with client_of(process.redis_url) as registry:
            assert registry.ping()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00garbage", b"nonsense", b"/etc"])
def test_lock_file_of_other_content_is_named(
    plan: Plan, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.data_dir.mkdir()
    (plan.data_dir / "lock").write_bytes(content)
    with pytest.raises(UnavailableError, match="lock: expected the path of a runtime directory"):
        start(plan)
    assert main(["status", "--data-dir", str(plan.data_dir)]) == 1
    assert "lock: expected the path of a runtime directory" in capsys.readouterr().err


def test_folder_of_another_origin_is_not_cleaned(plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "stitchwork-abcdefgh"
    folder.mkdir()
    (folder / "metrics.db").write_text("another program's")
    plan.data_dir.mkdir()
    (plan.data_dir / "lock").write_text(str(folder))
    with start(replace(plan, workers=0)):
        assert (folder / "metrics.db").exists()


def test_external_servers_are_used_and_none_is_embedded(plan: Plan) -> None:
    with start(plan) as owner:
        external = replace(
            plan,
            data_dir=plan.data_dir / "unused",
            redis_url=owner.redis_url,
            queue_url=owner.queue_url,
        )
        with start(external) as process:
            assert set(process.pids) == {"worker-1", "api"}
            assert (process.redis_url, process.queue_url) == (owner.redis_url, owner.queue_url)
        assert not external.data_dir.exists()
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
    """Children of this process that lead a process group."""
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
        (misplace, "is not a folder"),
    ],
)
def test_child_that_cannot_start_is_named_and_nothing_is_left(
    plan: Plan, spoil: Callable[[Plan], Plan], reason: str
) -> None:
    # Other tests may run services under this process.
    before = supervisors()
    with pytest.raises(UnavailableError, match=reason):
        start(spoil(plan))
    assert supervisors() == before
    if plan.data_dir.is_dir():
        with embedded_servers.open_lock(plan.data_dir) as lock:
            assert embedded_servers.try_lock(lock)


def test_service_that_never_gets_ready_raises(plan: Plan) -> None:
    idle = program("import signal; signal.pause()")
    with pytest.raises(UnavailableError, match=r"/health/ready\?workers=1 is not healthy: 503"):
        start(replace(plan, worker_command=idle), ready_timeout=3.0)
    with pytest.raises(UnavailableError, match="/health/live is not healthy: no answer"):
        start(replace(plan, api_command=idle), ready_timeout=0.5)


def test_interrupt_stops_all_in_order(plan: Plan) -> None:
    with launcher(plan) as process:
        assert process.stdout is not None
        assert read_until(process.stdout, "http://").startswith("stitchwork listens on http://127")
        family = family_of(process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=BOUND)
        assert process.returncode == 0
    assert output == ""
    assert [line for line in errors.splitlines() if line] == [
        "api ends",
        "worker ends, queue says +PONG",
    ]
    assert "bye bye" in embedded_servers.tail(plan.data_dir / "registry" / "valkey.log")
    await_gone(family, 0)


def test_second_interrupt_does_not_wait_for_a_stubborn_worker(plan: Plan) -> None:
    with launcher(replace(plan, worker_command=program(WORKER, "stubborn"))) as process:
        read_until(process.stdout, "http://")
        family = family_of(process)
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, "api ends")
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND) == 0
    await_gone(family, 0)


def test_interrupt_during_the_start_stops_it(plan: Plan) -> None:
    idle = program("import signal, sys; print('up', file=sys.stderr); signal.pause()")
    with launcher(replace(plan, worker_command=idle)) as process:
        read_until(process.stderr, "up")
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND) == 0


def test_stubborn_worker_is_killed_after_the_drain_time(plan: Plan) -> None:
    stubborn = replace(plan, worker_command=program(WORKER, "stubborn"), drain_seconds=0.2)
    process = start(stubborn)
    pids = process.pids
    assert process.stop() == 1
    await_gone(pids.values(), 0)


def test_server_that_reads_its_file_is_loading(tmp_path: Path) -> None:
    path, home = tmp_path / "s", tmp_path / "home"
    home.mkdir()
    command = [
        str(embedded_servers.binary()),
        *embedded_servers.options(embedded_servers.REGISTRY, home, path, 0),
    ]
    assert embedded_servers.state(path) == "down"
    states: set[str] = set()
    # The second start reads for a second: 1000 keys, a millisecond each.
    for delay in ("0", "1000"):
        command += ["--key-load-delay", delay]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            deadline = time.monotonic() + BOUND
            while (state := embedded_servers.state(path)) != "up" and time.monotonic() < deadline:
                states.add(state)
            with client_of(embedded_servers.socket_url(path)) as client:
                client.mset({f"key-{number}": "value" for number in range(1000)})
                client.bgrewriteaof()
                while client.info("persistence")["aof_rewrite_in_progress"]:
                    assert time.monotonic() < deadline
            server.terminate()
            assert server.wait(BOUND) == 0
    assert "loading" in states


def test_plan_environment_gives_the_children_the_same_settings(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        request_timeout_seconds=7.5,
        offline=True,
        model_roots=(Path("/a"), Path("/b")),
    )
    plan = Plan.from_settings(settings)
    assert plan.env["STITCHWORK_REQUEST_TIMEOUT_SECONDS"] == "7.5"
    assert plan.env["STITCHWORK_MODEL_ROOTS"] == "/a:/b"
    assert "STITCHWORK_WORKERS" not in plan.env
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.MonkeyPatch.context() as patch:
        for name, value in plan.env.items():
            patch.setenv(name, value)
        assert Settings() == settings


def test_long_runtime_directory_is_not_used(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with start(replace(plan, workers=0)) as process:
        assert socket_dir(process).parent == Path("/tmp")  # noqa: S108
        assert "worker-1" not in process.pids
