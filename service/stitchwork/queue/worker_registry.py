"""Live processes: the heartbeats of workers and APIs, and the removal of what dead ones left."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from pydantic import ValidationError

from stitchwork.errors import UnavailableError
from stitchwork.queue import scripts
from stitchwork.queue.messages import FORMAT
from stitchwork.queue.streams import ANNOUNCED, APIS, JOBS, REPLIES, WORKERS
from stitchwork.redis.client import PREFIX, RedisClient
from stitchwork.resources import EncoderSpec, Record

log = logging.getLogger(__name__)

EXPIRED_MS: Final = 3_600_000
IDLE_STREAM_MS: Final = 3_600_000
REMOVAL_SECONDS: Final = 30


class WorkerStatus(Record):
    """The status that a worker publishes.

    Attributes:
        worker: Its name, which starts with that of its host.
        message_format: The format of the messages that it reads and writes.
        device: Where its models run.
        serves: Patterns of the models that it takes work for.
        loaded: Keys of the encoders that are loaded.
        model_bytes: Memory of the loaded models.
        refused: Spaces that it cannot serve as they are registered, and why.
    """

    worker: str
    message_format: int = FORMAT
    device: str = "cpu"
    serves: tuple[str, ...] = ("*",)
    loaded: tuple[str, ...] = ()
    model_bytes: int = 0
    refused: Mapping[str, str] = {}

    def takes(self, model: str) -> bool:
        """Whether it takes work for this model; every worker takes work that needs no model."""
        return not model or any(fnmatchcase(model, pattern) for pattern in self.serves)


def live_workers(server: RedisClient, seconds: float, api: str = "") -> list[WorkerStatus]:
    """The workers with a heartbeat in the last seconds, by the server's clock.

    Args:
        server: The queue server.
        seconds: Seconds without a heartbeat after which a worker counts as dead.
        api: The API process that calls, whose heartbeat this is.
    """
    workers = []
    keys = (WORKERS, ANNOUNCED, APIS)
    for data in server.run_script(scripts.LIVE_WORKERS, keys, int(seconds * 1000), api):
        status = _parse_status(data)
        if status is None:
            log.warning("worker ignored", extra={"reason": "it belongs to another version"})
        else:
            workers.append(status)
    return workers


def count_accepting(workers: Sequence[WorkerStatus], encoder: EncoderSpec) -> int:
    """How many of the workers take work for this encoder."""
    return sum(worker.takes(encoder.model) for worker in workers)


def remove_expired(
    server: RedisClient, *, expired_ms: int = EXPIRED_MS, idle_stream_ms: int = IDLE_STREAM_MS
) -> int:
    """Remove what dead processes and unused encoders left; one process at a time does it.

    Args:
        server: The queue server.
        expired_ms: Silence after which everything that a process left is removed.
        idle_stream_ms: Time without a job after which an empty stream is removed.

    Returns:
        How many processes, streams and consumers were removed.
    """
    arguments = (REPLIES, expired_ms, idle_stream_ms)
    with server.session() as client:
        if not client.set(f"{PREFIX}swept", b"", nx=True, ex=REMOVAL_SECONDS):
            return 0
    keys = (WORKERS, ANNOUNCED, APIS, JOBS)
    return int(server.run_script(scripts.REMOVE_EXPIRED, keys, *arguments))


class Heartbeat:
    """Publishes the status of a worker again and again, from its own thread.

    Args:
        server: The queue server.
        ttl: Seconds without a heartbeat after which a worker counts as dead.
        describe: Returns the current status.
    """

    def __init__(
        self, server: RedisClient, ttl: float, describe: Callable[[], WorkerStatus]
    ) -> None:
        self._server = server
        self._ttl = ttl
        self._describe = describe
        self._loaded_elsewhere: frozenset[str] = frozenset()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin; the first heartbeat is sent before this returns, if the server is available."""
        self._beat()
        self._thread.start()

    def is_loaded_elsewhere(self, encoder: str) -> bool:
        """Whether another live worker had this encoder loaded at the last heartbeat."""
        return encoder in self._loaded_elsewhere

    def stop(self) -> None:
        """End the heartbeats and remove the worker from the live ones."""
        self._stopping.set()
        self._thread.join()
        self.deregister()

    def deregister(self) -> None:
        """Remove the worker from the live ones."""
        name = self._describe().worker
        try:
            with self._server.session() as client:
                client.zrem(WORKERS, name)
                client.hdel(ANNOUNCED, name)
        except UnavailableError as error:
            log.warning(
                "server unavailable",
                extra={
                    "server": "queue",
                    "reason": error.message,
                    "effect": "the entry of this worker is removed when it expires",
                },
            )

    def _run(self) -> None:
        while not self._stopping.wait(self._ttl / 4):
            self._beat()

    def _beat(self) -> None:
        status = self._describe()
        keys = (WORKERS, ANNOUNCED)
        try:
            self._server.run_script(
                scripts.HEARTBEAT, keys, status.worker, status.model_dump_json()
            )
            workers = live_workers(self._server, self._ttl)
            others = [other for other in workers if other.worker != status.worker]
            self._loaded_elsewhere = frozenset(key for other in others for key in other.loaded)
        except UnavailableError as error:
            extra = {"server": "queue", "reason": error.message}
            log.warning("server unavailable", extra=extra)


def _parse_status(data: bytes | None) -> WorkerStatus | None:
    """The status of a worker of this release; None for one of another."""
    try:
        status = WorkerStatus.model_validate_json(data or b"")
    except ValidationError:
        return None
    # A worker of 0.1.0 names no format.
    is_same = "message_format" in status.model_fields_set and status.message_format == FORMAT
    return status if is_same else None
