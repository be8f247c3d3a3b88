"""A running service for tests: the real processes, as a user would start them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from stitchwork.supervisor import Plan, ServiceProcess, start

MAX_PIXELS: Final = 8_000 * 8_000 + 1
"""The shared service's `max_image_pixels`; all its other settings have their defaults."""


class SharedService(NamedTuple):
    """A service with one worker that many tests share.

    Whoever registers something there uses ids that nobody else has.

    Attributes:
        running: The service.
        folder: It may read model files from here; each test makes a folder of its own in it.
        lite0: Weights of `tf_efficientnet_lite0`, which stand there already.
    """

    running: ServiceProcess
    folder: Path
    lite0: Path


@contextmanager
def running(
    workers: int = 1, roots: tuple[Path, ...] = (), data_dir: Path | None = None, **env: str
) -> Iterator[ServiceProcess]:
    """A service with its own servers, in a folder that goes with it unless one is given."""
    with TemporaryDirectory(prefix="sw") as folder:
        settings = {
            "STITCHWORK_MODEL_ROOTS": ":".join(map(str, roots)),
            "STITCHWORK_LOG_LEVEL": "warning",
            "STITCHWORK_OFFLINE": "true",
            **env,
        }
        plan = Plan(port=0, data_dir=data_dir or Path(folder), workers=workers, env=settings)
        with start(plan) as found:
            yield found
