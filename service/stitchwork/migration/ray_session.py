"""Connections to Ray, and tasks of Ray Data whose results are read in order."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import ray
from ray.data import DataContext

from stitchwork.errors import UnavailableError

CPUS: Final = "CPU"
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


def run_tasks(count: int, function: Callable[..., Any], reference: Any) -> Iterator[Any]:
    """Run a task for each number below a count.

    Args:
        count: Number of tasks.
        function: Called with a column `id` of one number, and the reference.
        reference: A second argument.

    Yields:
        The rows that the tasks return, in the order of their numbers.
    """
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    with DataContext.current(context):
        numbers = ray.data.range(count, override_num_blocks=count)
        results = numbers.map_batches(
            function, batch_size=1, batch_format="numpy", fn_kwargs={"reference": reference}
        )
        for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from table.to_pylist()
