"""A running service for tests: the real processes, as a user would start them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from stitchwork.supervisor import READY_SECONDS, Plan, ServiceProcess, start
from tests.support import machine
from tests.support.cluster import checked_settings

REQUEST_SECONDS: Final = 30.0
"""The default of `request_timeout_seconds`, which a slow machine lengthens."""
MAX_PIXELS: Final = 8_000 * 8_000 + 1
"""The shared service's `max_image_pixels`; all its other settings have their defaults."""


class SharedService(NamedTuple):
    """A service with one worker that many tests share.

    Tests that register something use ids of their own.

    Attributes:
        running: The service.
        folder: The service's model root; each test makes its own folder in it.
        lite0: Weights of `tf_efficientnet_lite0`, in that folder.
    """

    running: ServiceProcess
    folder: Path
    lite0: Path


@contextmanager
def running(
    workers: int = 1,
    roots: tuple[Path, ...] = (),
    data_dir: Path | None = None,
    server_url: str | None = None,
    **env: str,
) -> Iterator[ServiceProcess]:
    """Run a service, by default with embedded servers.

    Args:
        workers: How many workers.
        roots: Folders from which it may read models.
        data_dir: Its data directory; a temporary one by default.
        server_url: The server of registry and queue, if they are not embedded.
        env: More settings, as environment variables.
    """
    with TemporaryDirectory(prefix="sw") as folder:
        settings = {
            "STITCHWORK_MODEL_ROOTS": ":".join(map(str, roots)),
            "STITCHWORK_LOG_LEVEL": "warning",
            "STITCHWORK_OFFLINE": "true",
            "STITCHWORK_COMPILE_CACHE_BYTES": "0",
            "STITCHWORK_REQUEST_TIMEOUT_SECONDS": str(machine.deadline(REQUEST_SECONDS)),
            **checked_settings(env),
        }
        plan = Plan(
            port=0,
            data_dir=data_dir or Path(folder),
            workers=workers,
            redis_url=server_url,
            queue_url=server_url,
            env=settings,
        )
        timeout = machine.deadline(READY_SECONDS)
        with start(plan, ready_timeout=timeout) as service:
            yield service
