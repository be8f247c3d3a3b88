"""A cluster of server processes on loopback ports: slots, replicas, moves of a slot, failovers."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import redis
from redis.crc import key_slot

from tests.support import machine
from tests.support.servers import ServerBinary
from tests.support.waiting import wait_until

SLOTS: Final = 16384
PATIENCE: Final = 60.0
FAILOVER_MS: Final = 800
"""Time after which a silent node counts as failed, where that is to happen."""
PATIENT_MS: Final = 60_000
"""The same where it is not: a machine that is busy pauses its processes."""


class ClusterNode:
    """One process of a cluster."""

    def __init__(self, binary: ServerBinary, folder: Path, flags: tuple[str, ...]) -> None:
        self.port, self.bus_port = _free_port(), _free_port()
        home = folder / str(self.port)
        home.mkdir()
        self._log = home / "log"
        password = dict(zip(flags[::2], flags[1::2], strict=True)).get("--requirepass")
        with self._log.open("wb") as log:
            self.process = binary.popen(
                *("--port", str(self.port), "--dir", str(home), "--cluster-enabled", "yes"),
                *("--cluster-port", str(self.bus_port)),
                *("--cluster-node-timeout", str(FAILOVER_MS)),
                *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
                *flags,
                log=log.fileno(),
            )
        self.client = redis.Redis(port=self.port, password=password, socket_timeout=10)
        wait_until(
            "the node accepts connections",
            lambda: "eady to accept connections" in self._log.read_text(),
            PATIENCE,
        )
        self.id = text(self.call("CLUSTER", "MYID"))

    def call(self, *words: Any) -> Any:
        """The reply to a command."""
        client: Any = self.client
        return client.execute_command(*words)

    def view(self) -> list[str]:
        """What the node says about all nodes, one a line."""
        return text(self.call("CLUSTER", "NODES")).splitlines()

    def is_complete(self) -> bool:
        """Whether the node says that the cluster is up."""
        return "cluster_state:ok" in text(self.call("CLUSTER", "INFO"))

    def is_up(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def pause(self) -> None:
        """Let it answer nobody, until `resume`."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it as a loss of power would."""
        self.client.close()
        self.process.kill()
        self.process.wait(machine.deadline(10))


class RedisCluster:
    """Three masters, and replicas where a test adds them.

    Args:
        binary: The server.
        folder: Where its files go.
        flags: Further options of every node.
    """

    def __init__(self, binary: ServerBinary, folder: Path, flags: tuple[str, ...] = ()) -> None:
        self._binary, self._folder, self._flags = binary, folder, flags
        self.nodes: list[ClusterNode] = []
        self.masters = [self._start() for _ in range(3)]
        bounds = [SLOTS * i // 3 for i in range(4)]
        for i, node in enumerate(self.masters):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            node.call("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
        for node in self.masters[1:]:
            self._meet(node)
        self.wait_until_ok()
        self.set_node_timeout(PATIENT_MS)

    def url(self, scheme: str = "cluster", credentials: str = "") -> str:
        """The URL of the cluster by its first two nodes, after one where nothing answers."""
        first, second = self.nodes[:2]
        hosts = f"127.0.0.1:1,127.0.0.1:{first.port},127.0.0.1:{second.port}"
        return f"{scheme}://{credentials}{hosts}"

    def owner(self, key: str) -> ClusterNode:
        """The node that serves a key, as the first live node says."""
        slot = key_slot(key.encode())
        for first, last, (_, port, *_), *_ in self._live().call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"no node serves slot {slot}")

    def add_replica(self, master: ClusterNode) -> ClusterNode:
        """Start a replica; it follows its master when this returns."""
        node = self._start()
        self._meet(node)
        wait_until("it knows its master", lambda: master.id in str(node.view()), PATIENCE)
        node.call("CLUSTER", "REPLICATE", master.id)
        wait_until("it follows", lambda: master.call("WAIT", 1, 100) >= 1, PATIENCE)
        live = [member for member in self.nodes if member.is_up()]
        wait_until("all know it", lambda: all(_follows(node, master, n) for n in live), PATIENCE)
        return node

    def begin_move(self, key: str, target: ClusterNode) -> None:
        """Let the owner of a key's slot move it to another node, key by key."""
        source, slot = self.owner(key), key_slot(key.encode())
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, key: str, target: ClusterNode, count: int = 1000) -> int:
        """Move some keys of the slot; returns how many."""
        source, slot = self.owner(key), key_slot(key.encode())
        keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", *keys)
        return len(keys)

    def end_move(self, key: str, target: ClusterNode) -> None:
        """Make the target the owner; every node knows it when this returns."""
        source, slot = self.owner(key), key_slot(key.encode())
        for node in (target, source):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        wait_until("the first node knows it", lambda: self.owner(key) is target, PATIENCE)

    def move_slot(self, key: str, target: ClusterNode) -> None:
        """Move the slot of a key to another node."""
        self.begin_move(key, target)
        wait_until("all keys have moved", lambda: not self.move_keys(key, target, 10), PATIENCE)
        self.end_move(key, target)

    def move_slot_at_once(self, key: str, target: ClusterNode) -> None:
        """Move the slot of a key to another node as a whole, which Valkey 9 can."""
        slot = key_slot(key.encode())
        words = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id)
        self.owner(key).call(*words)
        wait_until("the first node knows it", lambda: self.owner(key) is target, PATIENCE)

    def set_node_timeout(self, milliseconds: int) -> None:
        """Set the time after which nodes take each other for failed."""
        for node in self.nodes:
            if node.is_up():
                node.call("CONFIG", "SET", "cluster-node-timeout", milliseconds)

    def wait_until_ok(self) -> None:
        """Wait until every live node says that the cluster is complete."""
        live = [node for node in self.nodes if node.is_up()]
        wait_until(
            "the cluster is complete", lambda: all(node.is_complete() for node in live), PATIENCE
        )

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop()

    def _live(self) -> ClusterNode:
        return next(node for node in self.nodes if node.is_up())

    def _start(self) -> ClusterNode:
        node = ClusterNode(self._binary, self._folder, self._flags)
        self.nodes.append(node)
        return node

    def _meet(self, node: ClusterNode) -> None:
        self._live().call("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)


@contextmanager
def redis_cluster(binary: ServerBinary, *flags: str) -> Iterator[RedisCluster]:
    """A cluster that ends with the context."""
    with TemporaryDirectory(prefix="sw") as folder:
        cluster = RedisCluster(binary, Path(folder), flags)
        try:
            yield cluster
        finally:
            cluster.stop()


def text(reply: Any) -> str:
    """A reply as text."""
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _follows(node: ClusterNode, master: ClusterNode, witness: ClusterNode) -> bool:
    """Whether a node of the cluster knows that another is the replica of a master."""
    return any(line.startswith(node.id) and master.id in line for line in witness.view())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
