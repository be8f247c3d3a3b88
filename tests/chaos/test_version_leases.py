"""Versions in the memory of API processes: none is older than an acknowledged one, whatever fails.

Every drill runs a `History`: writers record when each version was acknowledged, readers when each
response was requested, and no response may be older unless it says that it is stale.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

import httpx
import numpy as np
import pytest

from stitchwork.redis import PREFIX
from stitchwork.registry.change_log import LEASE_SECONDS, WAIT_SECONDS
from stitchwork.registry.change_log_start import STATE
from stitchwork.resources import Floats
from tests.support import machine
from tests.support.cluster import BoundedClient, Cluster, is_stale, version_of
from tests.support.proxy import Proxy
from tests.support.waiting import result_of, wait_until

pytestmark = pytest.mark.drills

K: Final = 20
WIDTH: Final = 8
ROWS: Final = np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)
MANY_SPACES: Final = 1000
REQUESTS: Final = 10_000
HEALTHY_SECONDS: Final = 0.05
"""The 99th percentile of writes while all processes run."""


def anchors(seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(K, WIDTH)).astype(np.float32)


class Acknowledgement(NamedTuple):
    """A version, with the times of its request and of its acknowledgement."""

    start: float
    end: float
    version: str


class Response(NamedTuple):
    """The version of a space that a response used, with the time of its request."""

    start: float
    end: float
    space: str
    version: str
    stale: bool


@dataclass
class History:
    """What was acknowledged and what was used."""

    writes: dict[str, list[Acknowledgement]] = field(default_factory=lambda: defaultdict(list))
    reads: list[Response] = field(default_factory=list)
    _starts: dict[tuple[str, int], float] = field(default_factory=dict)

    def put(self, client: BoundedClient, id_: str, seed: int) -> float:
        """Replace a space; the seconds until it was acknowledged."""
        # A write that failed may have been stored all the same.
        start = self._starts.setdefault((id_, seed), time.monotonic())
        response = client.put_space(id_, anchors(seed))
        end = time.monotonic()
        assert response.is_success, response.text
        self.writes[id_].append(Acknowledgement(start, end, response.json()["version"]))
        return end - start

    def read(self, client: BoundedClient, source: str, target: str) -> httpx.Response:
        """Translate, and record the versions of a success."""
        start = time.monotonic()
        response = client.translate(ROWS, source, target)
        end = time.monotonic()
        if response.status_code == 200:
            for role, id_ in (("Source", source), ("Target", target)):
                version = version_of(response, role)
                self.reads.append(Response(start, end, id_, version, is_stale(response)))
        else:
            assert response.status_code in (404, 503), response.text
        return response

    def check(self) -> int:
        """Check every response; the number of those that are not stale."""
        fresh = 0
        for read in self.reads:
            writes = self.writes[read.space]
            begun = [i for i, write in enumerate(writes) if write.start < read.end]
            acknowledged = [i for i in begun if writes[i].end < read.start]
            position = max(i for i in begun if writes[i].version == read.version)
            if not read.stale:
                fresh += 1
                assert position >= max(acknowledged, default=0), (
                    f"{read.space}: {read.start - writes[max(acknowledged)].end:.3f} s after "
                    "another version was acknowledged"
                )
        return fresh


@contextmanager
def readers(
    history: History,
    reads: Mapping[BoundedClient, Callable[[], tuple[str, str]]],
    pause: float = 0.0,
) -> Any:
    """Clients that read all the time, each a pair of spaces that its function picks."""
    stop = threading.Event()

    def run(client: BoundedClient, pick: Callable[[], tuple[str, str]]) -> None:
        while not stop.is_set():
            history.read(client, *pick())
            stop.wait(pause)

    with ThreadPoolExecutor(len(reads)) as pool:
        futures = [pool.submit(run, client, pick) for client, pick in reads.items()]
        try:
            yield
        finally:
            stop.set()
        for future in futures:
            result_of(future)


def pair() -> tuple[str, str]:
    return "x", "y"


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    """A proxy before the registry server."""
    proxy = Proxy(cluster.folder / "proxy.sock", cluster.registry.path)
    yield proxy
    proxy.close()


def test_writes_are_fast_while_all_processes_run(cluster: Cluster, history: History) -> None:
    apis = [cluster.api() for _ in range(3)]
    with BoundedClient(apis[0].url) as a, BoundedClient(apis[1].url) as b:
        history.put(a, "x", 0)
        history.put(a, "y", 1)
        # With pauses, since this process measures: it should wait for the service, not for itself.
        with readers(history, {a: pair, b: pair}, 0.02), BoundedClient(apis[2].url) as writer:
            seconds = [history.put(writer, "y", seed) for seed in range(2, 102)]
        assert np.percentile(seconds, 99) < machine.deadline(HEALTHY_SECONDS)
    assert history.check() > len(seconds)


def test_paused_process_delays_one_write_and_uses_the_new_version(
    cluster: Cluster, history: History
) -> None:
    apis = [cluster.api(), cluster.api()]
    with BoundedClient(apis[0].url) as a, BoundedClient(apis[1].url) as b:
        history.put(a, "x", 0)
        history.put(a, "y", 1)
        for client in (a, b):
            history.read(client, "x", "y")
        apis[1].pause()
        try:
            first = history.put(a, "y", 2)
            second = history.put(a, "y", 3)
        finally:
            apis[1].resume()
        history.read(b, "x", "y")
    assert first < machine.deadline(LEASE_SECONDS + 1)
    assert second < machine.deadline(LEASE_SECONDS / 2)
    assert history.check() == len(history.reads)


def test_process_that_is_cut_off_serves_stale_versions(
    cluster: Cluster, history: History, proxy: Proxy
) -> None:
    reached = cluster.api()
    env = {"STITCHWORK_REDIS_URL": proxy.url, "STITCHWORK_REDIS_TIMEOUT_SECONDS": "1"}
    cut_off = cluster.api(**env)
    with BoundedClient(reached.url) as a, BoundedClient(cut_off.url) as b:
        history.put(a, "x", 0)
        history.put(a, "y", 1)
        assert not is_stale(history.read(b, "x", "y"))
        with readers(history, {b: pair}):
            proxy.close()
            seconds = history.put(a, "y", 2)
            wait_until("it is stale", lambda: any(read.stale for read in list(history.reads)))
    assert seconds < machine.deadline(LEASE_SECONDS + 1)
    history.check()


def test_lost_notices_leave_no_old_version(
    cluster: Cluster, history: History, proxy: Proxy
) -> None:
    # Every reply on a connection that subscribes is dropped.
    proxy.drop_replies(b"SUBSCRIBE")
    informed, uninformed = cluster.api(), cluster.api(STITCHWORK_REDIS_URL=proxy.url)
    with BoundedClient(informed.url) as a, BoundedClient(uninformed.url) as b:
        history.put(a, "x", 0)
        history.put(a, "y", 1)
        with readers(history, {b: pair}):
            for seed in range(2, 7):
                assert history.put(a, "y", seed) < machine.deadline(LEASE_SECONDS)
    assert history.check() > 0


def _restart(cluster: Cluster) -> None:
    cluster.registry.stop(kill=True)
    cluster.registry.start()


def _restart_empty(cluster: Cluster) -> None:
    cluster.records.config_set("appendonly", "no")
    cluster.registry.stop(kill=True)
    for path in (cluster.folder / "registry" / "appendonlydir").glob("*"):
        path.unlink()
    cluster.registry.start()


def _flush(cluster: Cluster) -> None:
    cluster.records.flushall()


@pytest.mark.parametrize("lose", [_restart, _restart_empty, _flush])
def test_registry_that_restarts_leaves_no_old_version(
    cluster: Cluster, history: History, lose: Callable[[Cluster], None]
) -> None:
    """Whether it keeps its data or not, what is registered afterwards is used by all."""
    apis = [cluster.api(), cluster.api()]
    with BoundedClient(apis[0].url) as a, BoundedClient(apis[1].url) as b:
        history.put(a, "x", 0)
        history.put(a, "y", 1)
        with BoundedClient(apis[0].url) as writer, readers(history, {a: pair, b: pair}):
            for seed in range(2, 5):
                lose(cluster)
                put_again = partial(put_both, history, writer, seed)
                wait_until("the registry accepts writes", put_again)
        for client in (a, b):
            wait_until("it is fresh", lambda: not is_stale(history.read(client, "x", "y")))  # noqa: B023
    assert history.check() > 0


def put_both(history: History, client: BoundedClient, seed: int) -> bool:
    """Register both spaces; False while the registry does not answer."""
    try:
        history.put(client, "x", 0)
        history.put(client, "y", seed)
    except AssertionError:
        return False
    return True


def test_thousand_spaces_under_load_with_a_write_a_second(
    cluster: Cluster, history: History
) -> None:
    """No response is older than acknowledged, and without writes none asks the registry."""
    apis = [cluster.api(), cluster.api()]
    rng = np.random.default_rng(0)

    def random_pair() -> tuple[str, str]:
        source, target = rng.integers(MANY_SPACES, size=2)
        return f"s{source}", f"s{target}"

    with (
        BoundedClient(apis[0].url) as a,
        BoundedClient(apis[1].url) as b,
        BoundedClient(apis[0].url) as writer,
    ):
        for i in range(MANY_SPACES):
            history.put(writer, f"s{i}", i)
        with readers(history, {a: random_pair, b: random_pair}):
            for seed in range(5):
                history.put(writer, f"s{seed}", MANY_SPACES + seed)
                threading.Event().wait(1.0)
        # New spaces are compared with the others, which writes what is found to their records.
        wait_until("the records change no more", partial(_is_steady, cluster), 180)
        few = [f"s{i}" for i in range(4)]
        for client in (a, b):
            for source in few:
                for target in few:
                    history.read(client, source, target)
        before, start = _calls(cluster), time.monotonic()
        for i in range(REQUESTS // 2):
            for client in (a, b):
                history.read(client, few[i % 4], few[i // 4 % 4])
        calls, seconds = _calls(cluster) - before, time.monotonic() - start
    assert history.check() > REQUESTS
    # Two processes renew their leases and look for changed API keys, some commands a second each.
    assert calls < 2 * 30 * (seconds + WAIT_SECONDS)
    assert calls < REQUESTS


def _is_steady(cluster: Cluster) -> bool:
    """Whether no record changes for two seconds."""
    before = cluster.records.hget(PREFIX + STATE, "sequence")
    threading.Event().wait(2.0)
    return bool(cluster.records.hget(PREFIX + STATE, "sequence") == before)


def _calls(cluster: Cluster) -> int:
    """The commands that the registry server has run, those in scripts included."""
    statistics: Any = cluster.records.info("commandstats")
    return sum(command["calls"] for command in statistics.values())
