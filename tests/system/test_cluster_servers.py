"""The whole service with its registry and its queue on one cluster of three masters and replicas.

A slot moves, a replica is paused, a master ends, all of it under load.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import Floats
from tests.support import machine
from tests.support.redis_cluster import FAILOVER_MS, ClusterNode, RedisCluster, redis_cluster
from tests.support.running_service import running
from tests.support.servers import VALKEY_9, server_binary
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

REGISTRY_KEY = "stitchwork:{records}:x"
SHARDS = 3
WIDTH = 384
UNCONFIRMED = "0 of 1 replicas"


def other_master(cluster: RedisCluster, *keys: str) -> ClusterNode:
    owners = [cluster.owner(key) for key in keys]
    return next(node for node in cluster.masters if node not in owners)


def translate(http: httpx.Client, rows: Floats) -> httpx.Response:
    body = {"source": "m", "target": "n", "embeddings": rows.tolist()}
    return http.post("/translate", json=body)


@contextmanager
def traffic(http: httpx.Client, rows: Floats, expected: Floats) -> Iterator[Counter[str]]:
    """Meanwhile rows are translated and texts stitched; what came of it."""
    stop, outcomes = threading.Event(), Counter[str]()

    def count(name: str, response: httpx.Response, is_right: bool) -> None:
        if response.status_code == 503:
            outcomes[f"{name} refused"] += 1
            stop.wait(0.02)
        else:
            outcomes[f"{name} right" if is_right else f"{name} wrong: {response.text[:200]}"] += 1

    def translations() -> None:
        while not stop.is_set():
            response = translate(http, rows)
            is_right = response.is_success and np.allclose(
                response.json()["embeddings"], expected, atol=1e-3
            )
            count("translate", response, is_right)

    def stitches() -> None:
        while not stop.is_set():
            response = http.post("/stitch/m/h", json={"items": ["a text"]})
            is_right = response.is_success and response.json()["predictions"][0]["label"] == label
            count("stitch", response, is_right)

    first = http.post("/stitch/m/h", json={"items": ["a text"]})
    label = first.raise_for_status().json()["predictions"][0]["label"]
    threads = [threading.Thread(target=work) for work in (translations, stitches)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def registrations(http: httpx.Client) -> Iterator[Counter[str]]:
    """Meanwhile spaces are registered, one after another; their names, and refusals by reason."""
    stop, outcomes = threading.Event(), Counter[str]()

    def register() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            response = put_space(http, f"s{number}")
            if response.status_code == 201:
                outcomes[f"s{number}"] += 1
                continue
            assert response.status_code == 503, response.text
            is_unconfirmed = UNCONFIRMED in response.text
            outcomes["unconfirmed" if is_unconfirmed else "unavailable"] += 1
            stop.wait(0.05)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(register)
        try:
            yield outcomes
        finally:
            stop.set()
        future.result()


def test_service_on_a_cluster_answers_right_while_slots_move_and_a_master_ends() -> None:
    anchors = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
    rows = np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32)
    spec = {"kind": "transformers", "model": str(minilm_folder())}
    flags = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
    with redis_cluster(server_binary(VALKEY_9), *flags) as cluster:
        replicas = {master: cluster.add_replica(master) for master in cluster.masters}
        env: Any = {
            "STITCHWORK_LOG_LEVEL": "error",
            "STITCHWORK_DURABLE_REPLICAS": "1",
            "STITCHWORK_QUEUE_SHARDS": str(SHARDS),
        }
        with (
            running(roots=(minilm_folder(),), server_url=cluster.url(), **env) as service,
            httpx.Client(base_url=service.url, timeout=machine.deadline(60)) as http,
        ):
            for name, own, more in (
                ("m", anchors, {"encoder": spec}),
                ("n", anchors[:, ::-1], {}),
            ):
                body = {"anchor_set": "S", "anchors": own.tolist(), **more}
                assert http.put(f"/spaces/{name}", json=body).status_code == 201
            head = {"space": "n", "weight": np.eye(2, WIDTH).tolist(), "labels": ["a", "b"]}
            assert http.put("/heads/h", json=head).status_code == 201
            wait_until("it stitches", lambda: stitches(http), 120)
            expected = np.asarray(translate(http, rows).json()["embeddings"], np.float32)
            with traffic(http, rows, expected) as outcomes:

                def goes_on(name: str) -> None:
                    count = outcomes[name]
                    wait_until(f"{name} again", lambda: outcomes[name] > count + 3)

                queue_key = shard_of_encoder(cluster)
                for key in (REGISTRY_KEY, queue_key):
                    cluster.move_slot(key, other_master(cluster, REGISTRY_KEY, queue_key))
                    goes_on("translate right")
                    goes_on("stitch right")
                victim = cluster.owner(REGISTRY_KEY)
                replica = replicas[victim]
                with registrations(http) as spaces:
                    wait_until("spaces are registered", lambda: len(names(spaces)) > 2)
                    replica.pause()
                    wait_until("one is not confirmed", lambda: spaces["unconfirmed"])
                    replica.resume()
                    count = len(names(spaces))
                    wait_until("more are registered", lambda: len(names(spaces)) > count)
                    cluster.set_node_timeout(FAILOVER_MS)
                    victim.stop()
                    goes_on("translate right")
                    wait_until("another master", lambda: cluster.owner(REGISTRY_KEY) is replica, 60)
                    goes_on("stitch right")
                    # It has no replica itself, until it gets one.
                    count = spaces["unconfirmed"]
                    wait_until("others are not confirmed", lambda: spaces["unconfirmed"] > count)
                    cluster.add_replica(replica)
                    count = len(names(spaces))
                    wait_until("registrations go on", lambda: len(names(spaces)) > count)
            assert not [outcome for outcome in outcomes if "wrong" in outcome], outcomes
            for name in names(spaces):
                assert http.get(f"/spaces/{name}").is_success, "what was confirmed is lost"


def shard_of_encoder(cluster: RedisCluster) -> str:
    """A key of the shard that has the jobs of the only encoder."""
    for number in range(SHARDS):
        key = f"stitchwork:{{q{number}}}:encoders"
        if set(cluster.owner(key).call("HKEYS", key)) - {b"registration"}:
            return key
    raise AssertionError("no shard has an encoder")


def names(outcomes: Counter[str]) -> list[str]:
    """The spaces that were registered."""
    return [name for name in list(outcomes) if name.startswith("s")]


def stitches(http: httpx.Client) -> bool:
    return http.post("/stitch/m/h", json={"items": ["a text"]}).is_success


def put_space(http: httpx.Client, name: str) -> httpx.Response:
    return http.put(f"/spaces/{name}", json={"anchor_set": "W", "anchors": np.eye(4).tolist()})
