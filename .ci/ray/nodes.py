"""A cluster of Ray on one machine, in separate raylets."""

from typing import Any

from ray.cluster_utils import Cluster

MEMORY = 200 * 1024 * 1024


class Nodes:
    """A cluster of a head and of nodes of one processor each."""

    def __init__(self, count: int) -> None:
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY}
        )
        self._nodes: list[Any] = []
        self.address = self._cluster.address
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """Add a node."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=MEMORY))

    def kill(self) -> None:
        """Kill the last node with all of its processes."""
        self._cluster.remove_node(self._nodes.pop(), allow_graceful=False)

    def shutdown(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()
