"""The folder of compiled models, which workers that start later read instead of compiling."""

import logging
import os
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from stitchwork import __version__
from stitchwork.models.cpu_features import CPU_INFO, describe_cpu
from stitchwork.resources import digest

log = logging.getLogger(__name__)

SUFFIX: Final = ".compiled"
PACKAGES: Final = ("openvino", "torch", "transformers", "timm")
"""Libraries that decide what a model is compiled to."""


class CompiledFiles:
    """A folder of compiled models, bounded in size.

    A file is named by all that decides its contents: the encoder, its files, the libraries and the
    CPU. Whoever can write to the folder decides what workers run.

    Args:
        folder: The folder; it is created if needed. Without one, nothing is kept.
        max_bytes: Maximum size of all files; those used longest ago are deleted.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        if folder is not None:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                self._folder = None
                extra = {
                    "folder": str(folder),
                    "reason": error.strerror or type(error).__name__,
                    "effect": "models are compiled anew by each worker that starts",
                }
                log.warning("compiled models not cached", extra=extra)

    def file(self, encoder: str, files_digest: str) -> Path | None:
        """The file of a compiled encoder, which may not exist yet; None if there is no folder.

        Args:
            encoder: Key of the encoder.
            files_digest: Digest of its files.
        """
        if self._folder is None or not files_digest:
            return None
        facts = {
            "encoder": encoder,
            "files": files_digest,
            "cpu": describe_cpu(CPU_INFO),
            "release": __version__,
            "packages": {name: _version(name) for name in PACKAGES},
        }
        return self._folder / f"{digest(facts)}{SUFFIX}"

    def record_use(self, file: Path | None) -> None:
        """Mark a file as used now, and delete those used longest ago beyond the maximum size."""
        if self._folder is None or file is None:
            return
        try:
            if file.exists():
                file.touch()
            _prune(self._folder.glob(f"*{SUFFIX}"), self._max_bytes)
        except OSError as error:
            extra = {"folder": str(self._folder), "reason": error.strerror or type(error).__name__}
            log.warning("compiled models not deleted", extra=extra)


def default_folder() -> Path:
    """`stitchwork/compiled` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "stitchwork" / "compiled"


def _prune(files: Iterable[Path], max_bytes: int) -> None:
    """Delete the files used longest ago until the others fit."""
    stats = [(file, file.stat()) for file in files]
    total = 0
    for file, stat in sorted(stats, key=lambda pair: pair[1].st_mtime, reverse=True):
        total += stat.st_size
        if total > max_bytes:
            # Another worker may have deleted it.
            file.unlink(missing_ok=True)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
