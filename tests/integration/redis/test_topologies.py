"""Real Valkey and Redis servers: alone, over TLS, with replicas, and behind a sentinel."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from stitchwork.bootstrap.shared import open_registry
from stitchwork.errors import RegistryUnavailableError
from stitchwork.redis import PREFIX
from stitchwork.redis.client import Check, RedisClient
from stitchwork.settings import Settings
from tests.integration.redis.conftest import (
    AOF,
    LOCKED,
    PATIENCE,
    SECRET,
    Node,
    Start,
    behind_tls,
    knows_waitaof,
    tls_flags,
)
from tests.support.waiting import wait_until

KEY = PREFIX + "k"


def of_client(folder: Path) -> str:
    return f"ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.key"


def reach(url: str, *, timeout: float = 2.0, replicas: int = 0) -> RedisClient:
    return RedisClient(url, timeout, RegistryUnavailableError, failure_pause=0.0, replicas=replicas)


def write(server: RedisClient, value: str, *, aof_timeout_ms: int = 0) -> bool:
    return server.commit([], [("SET", KEY, value)], aof_timeout_ms=aof_timeout_ms)


def read(server: RedisClient) -> object:
    with server.session() as client:
        return client.get(KEY)


def test_server_over_tcp_with_a_password_works(start: Start) -> None:
    node = start(*AOF, *LOCKED)
    server = reach(f"redis://:{SECRET}@127.0.0.1:{node.port}/0")
    promised = server.confirms_writes()
    assert promised is knows_waitaof(node)
    assert write(server, "v", aof_timeout_ms=1000 if promised else 0)
    assert not server.commit([Check(("GET", KEY), "other")], [("SET", KEY, "w")])
    assert read(server) == b"v"
    server.close()
    stranger = reach(f"redis://:wrong-{SECRET}@127.0.0.1:{node.port}/0")
    with pytest.raises(
        RegistryUnavailableError, match="refused the user name or the password"
    ) as error:
        stranger.ping()
    assert SECRET not in str(error.value)
    stranger.close()


def test_tls_with_client_certificates_works(start: Start, certificates: Path) -> None:
    node = start(*AOF, tls=tls_flags(certificates))
    place = f"rediss://127.0.0.1:{node.port}/0"
    trusted = f"ssl_ca_certs={certificates}/ca.pem"
    server = reach(f"{place}?{trusted}&{of_client(certificates)}")
    assert write(server, "v")
    assert read(server) == b"v"
    server.close()
    for options, output in (
        (f"ssl_ca_certs={certificates}/other.pem", "certificate that is not trusted"),
        ("", "certificate that is not trusted"),
        (trusted, "check the certificates|wants a client's certificate"),
        ("ssl_ca_certs=/nowhere.pem", "file cannot be read"),
    ):
        stranger = reach(f"{place}?{options}")
        with pytest.raises(RegistryUnavailableError, match=output):
            stranger.ping()
        stranger.close()
    node.stop()
    server = reach(f"{place}?{trusted}&{of_client(certificates)}")
    with pytest.raises(RegistryUnavailableError, match="cannot be reached or does not answer"):
        server.ping()
    server.close()


def test_tls_through_a_proxy_works(start: Start, certificates: Path) -> None:
    node = start(*AOF, *LOCKED)
    with behind_tls(node, certificates) as port:
        place = f"rediss://:{SECRET}@127.0.0.1:{port}/0?{of_client(certificates)}"
        server = reach(f"{place}&ssl_ca_certs={certificates}/ca.pem")
        assert write(server, "v", aof_timeout_ms=1000 if server.confirms_writes() else 0)
        assert read(server) == b"v"
        server.close()
        stranger = reach(f"{place}&ssl_ca_certs={certificates}/other.pem")
        with pytest.raises(RegistryUnavailableError, match="certificate that is not trusted"):
            stranger.ping()
        stranger.close()


@pytest.mark.parametrize("sentinel", [False, True])
def test_demoted_master_is_left_for_the_new_one(start: Start, sentinel: bool) -> None:
    node, other = start(), start()
    url = f"redis://127.0.0.1:{node.port}"
    if sentinel:
        url = f"sentinel://127.0.0.1:{start(conf=watch(node)).port}/main"
    server = reach(url)
    assert write(server, "v")
    before = server.redis.client_id()
    node.ask("REPLICAOF", "127.0.0.1", str(other.port))
    with pytest.raises(RegistryUnavailableError, match="has become a read-only replica"):
        write(server, "w")
    node.ask("REPLICAOF", "NO", "ONE")
    assert write(server, "w")
    assert server.redis.client_id() != before
    server.close()


def test_confirmed_write_is_on_replicas_too(start: Start) -> None:
    master = start(*AOF)
    server = reach(f"redis://127.0.0.1:{master.port}", replicas=1)
    settings = Settings(redis_url=server.url, durable_replicas=1)
    if not knows_waitaof(master):
        with pytest.raises(RegistryUnavailableError, match="WAITAOF"):
            open_registry(server, settings)
        server.close()
        return
    replica = start(*AOF, "--replicaof", "127.0.0.1", str(master.port))
    master.settle()
    assert open_registry(server, settings).durable
    assert write(server, "v", aof_timeout_ms=1500)
    replica.stop()
    with pytest.raises(RegistryUnavailableError, match="0 of 1 replicas"):
        write(server, "w", aof_timeout_ms=200)
    assert read(server) == b"w", "it says that it is stored"
    server.close()
    alone = reach(server.url)
    assert write(alone, "x", aof_timeout_ms=1500)
    alone.close()


class Watched(NamedTuple):
    """A master, its replica, and the sentinel over both."""

    master: Node
    replica: Node
    sentinel: Node
    url: str

    def is_listed(self) -> bool:
        """Whether the sentinel knows of the replica, and knows it to be up."""
        result = str(self.sentinel.ask("SENTINEL REPLICAS", "main"))
        return "b'slave'" in result and "b'ok'" in result


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
    result = Watched(master, replica, sentinel, url)
    wait_until("it is listed", result.is_listed, PATIENCE)
    return result


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_master_is_replaced_by_its_replica(watched: Watched, end: signal.Signals) -> None:
    server = reach(Settings(redis_url=watched.url).redis_url or "", timeout=0.5)
    blocking = server.blocking(0.5)
    aof_timeout_ms = 400 if server.confirms_writes() else 0
    assert write(server, "before", aof_timeout_ms=aof_timeout_ms)
    assert blocking.redis.blpop([PREFIX + "none"], timeout=0.1) is None
    watched.master.ask("WAIT", "1", "5000")
    watched.master.process.send_signal(end)

    failures: list[str] = []

    def answers(call: Callable[[], object]) -> bool:
        try:
            return bool(call())
        except RegistryUnavailableError as error:
            failures.append(str(error))
            return False

    wait_until(
        "it writes",
        lambda: answers(lambda: write(server, "after", aof_timeout_ms=aof_timeout_ms)),
        PATIENCE,
    )
    assert failures, "the first call after its end cannot have gone well"
    assert read(server) == b"after"
    assert server.redis.info("server")["tcp_port"] == watched.replica.port
    assert server.now_ms() > 0
    # Its connection to a master that is silent costs one timeout of its own.
    wait_until("it answers", lambda: answers(blocking.ping), PATIENCE)
    with blocking.session() as client:
        assert client.rpush(PREFIX + "list", "item") == 1
        assert client.blpop([PREFIX + "list"], timeout=0.4)
    assert not any(SECRET in output for output in failures)
    # Closing ends the connections to the sentinel as well.
    blocking.close()
    server.close()
    wait_until(
        "one is left",
        lambda: str(watched.sentinel.ask("CLIENT LIST")).count("'laddr'") == 1,
        PATIENCE,
    )


def test_isolated_master_does_not_confirm_writes(watched: Watched) -> None:
    server = reach(watched.url, replicas=1)
    if not server.confirms_writes():
        server.close()
        pytest.skip("Redis 7.0 has no WAITAOF")
    assert write(server, "before", aof_timeout_ms=1500)
    with redis.Redis(port=watched.sentinel.port, password=SECRET) as client:
        events = client.pubsub(ignore_subscribe_messages=True)
        events.subscribe("+switch-master")
        watched.sentinel.ask("SENTINEL", "FAILOVER", "main")
        wait_until("an event comes", lambda: events.get_message(timeout=1.0), PATIENCE)
        events.close()
    # A forced failover leaves the old master writable for some seconds, to the connections it has.
    with pytest.raises(RegistryUnavailableError, match="0 of 1 replicas"):
        write(server, "lost", aof_timeout_ms=200)
    assert read(server) == b"before"
    assert server.redis.info("server")["tcp_port"] == watched.replica.port
    server.close()


def test_late_reply_is_not_read_by_the_next_call(watched: Watched) -> None:
    server = reach(watched.url, timeout=0.2)
    assert write(server, "v")
    watched.master.process.send_signal(signal.SIGSTOP)
    with pytest.raises(RegistryUnavailableError, match="does not answer"):
        server.now_ms()
    watched.master.process.send_signal(signal.SIGCONT)
    assert read(server) == b"v"
    server.close()


def test_sentinels_without_a_master_are_reported(watched: Watched) -> None:
    place = f"127.0.0.1:{watched.sentinel.port}"
    for url, output in (
        (f"sentinel://:{SECRET}@{place}/other?sentinel_password={SECRET}", "has no master"),
        (f"sentinel://:{SECRET}@{place}/main?sentinel_password=x{SECRET}", "refused the user"),
        (f"sentinel://:x{SECRET}@{place}/main?sentinel_password={SECRET}", "refused the user"),
        (f"sentinel://:{SECRET}@127.0.0.1:1/main", "cannot be reached"),
    ):
        server = reach(url)
        with pytest.raises(RegistryUnavailableError, match=output) as error:
            server.ping()
        assert SECRET not in str(error.value)
        server.close()


def test_sentinels_over_tls_work(start: Start, certificates: Path) -> None:
    tls = tls_flags(certificates)
    master = start(*AOF, tls=tls)
    sentinel = start(tls=tls, conf=watch(master))
    place = f"sentinels://127.0.0.1:{sentinel.port}/main"
    server = reach(f"{place}?ssl_ca_certs={certificates}/ca.pem&{of_client(certificates)}")
    assert write(server, "v")
    assert read(server) == b"v"
    server.close()
    stranger = reach(f"{place}?ssl_ca_certs={certificates}/other.pem&{of_client(certificates)}")
    with pytest.raises(RegistryUnavailableError, match="certificate that is not trusted"):
        stranger.ping()
    stranger.close()
