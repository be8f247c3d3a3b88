"""Connections to Ray, and tasks of Ray Data whose results are read in order."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from stitchwork.errors import UnavailableError

CPUS: Final = "CPU"
GPUS: Final = "GPU"
CONNECT_SECONDS: Final = 10.0


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """A context that is connected to Ray.

    Args:
        address: Address of a cluster; None takes RAY_ADDRESS, or starts one on this machine. A
            process that is connected already stays so.

    Raises:
        UnavailableError: If there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Ray would otherwise report its use to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _check_address(address)
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **options)
    except (ConnectionError, TimeoutError) as error:
        raise UnavailableError(f"expected a Ray cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Check that something listens there: Ray would try for minutes.

    Raises:
        UnavailableError: If nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UnavailableError(f"expected a Ray cluster at {address}: {error}") from error


def cluster_cpus() -> int:
    """Processors of the cluster."""
    return max(1, int(ray.cluster_resources().get(CPUS, 1)))


@dataclass(frozen=True, slots=True)
class ActorResources:
    """What each actor takes of a cluster.

    Attributes:
        cpus: Processors; its libraries use as many threads.
        gpus: GPUs; None for one if the cluster has any.
    """

    cpus: int = 1
    gpus: int | None = None

    def needs(self) -> dict[str, int]:
        """How many of each kind it takes of the cluster."""
        available = 1 if ray.cluster_resources().get(GPUS) else 0
        return {CPUS: self.cpus, GPUS: available if self.gpus is None else self.gpus}

    def count(self) -> int:
        """How many actors the cluster has room for; 1 if there is none, which then waits."""
        resources = ray.cluster_resources()
        rooms = [int(resources.get(kind, 0) // need) for kind, need in self.needs().items() if need]
        return max(1, min(rooms))


def run_tasks(count: int, function: Callable[..., Any], reference: Any) -> Iterator[Any]:
    """Run a task for each number below a count.

    Args:
        count: Number of tasks.
        function: Called with a column `id` of one number, and the reference.
        reference: A second argument.

    Yields:
        The rows that the tasks return, as tables of one row, in the order of their numbers.
    """
    yield from _run(count, function, fn_kwargs={"reference": reference})


def run_in_actors(
    count: int, kind: type, reference: Any, resources: ActorResources
) -> Iterator[Any]:
    """The same by calls of actors, as many as the cluster has room for.

    Args:
        count: Number of calls.
        kind: The class of the actors, constructed with the reference.
        reference: The argument.
        resources: What each actor takes.
    """
    # An actor of a machine that is lost begins again where an idle one ends, hence the minimum.
    size = min(count, resources.count())
    # One call at a time, so that calls are shared evenly and few are lost with a machine.
    pool = ActorPoolStrategy(
        min_size=1, initial_size=size, max_size=size, max_tasks_in_flight_per_actor=1
    )
    needs = resources.needs()
    yield from _run(
        count,
        kind,
        fn_constructor_kwargs={"reference": reference},
        compute=pool,
        num_cpus=needs[CPUS],
        num_gpus=needs[GPUS] or None,
    )


def _run(count: int, function: Any, **options: Any) -> Iterator[Any]:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    with DataContext.current(context):
        # Not by `range`, whose tasks would wait for a processor that actors have taken.
        numbers = ray.data.from_arrow([pa.table({"id": [number]}) for number in range(count)])
        results = numbers.map_batches(function, batch_size=1, batch_format="numpy", **options)
        for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in range(table.num_rows):
                yield table.slice(row, 1)
