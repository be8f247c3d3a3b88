"""Tracks the files of the models that one worker loads: what was read, and what has changed."""

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from cachetools import LRUCache

from stitchwork.errors import ErrorCode, JobFailedError, StitchworkError
from stitchwork.models.file_snapshots import FileSnapshot
from stitchwork.models.load_errors import LOAD_ERRORS
from stitchwork.models.model_files import ModelFiles
from stitchwork.resources import EncoderSpec, encoder_key

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_SNAPSHOTS: Final = 1024
LOAD_ATTEMPTS: Final = 3
"""Attempts to load files that change meanwhile."""


class FileTracker:
    """Tracks the files of models; not for use by several threads at once.

    Args:
        files: Finds the files.
    """

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        self._first: LRUCache[str, FileSnapshot] = LRUCache(MAX_SNAPSHOTS)
        self._last: LRUCache[str, FileSnapshot] = LRUCache(MAX_SNAPSHOTS)

    def read(self, spec: EncoderSpec, load: Callable[[], T]) -> tuple[T, FileSnapshot]:
        """Load something from a model's files, again if they change meanwhile.

        Args:
            spec: The model.
            load: Loads it, and may be called several times.

        Returns:
            The result, and the files that it is certainly of.

        Raises:
            JobFailedError: If the files change whenever they are loaded.
        """
        key = encoder_key(spec)
        snapshot = self._files.snapshot(spec, self._last.get(key))
        for _ in range(LOAD_ATTEMPTS):
            failure: Exception | None = None
            try:
                result = load()
            except (StitchworkError, *LOAD_ERRORS) as error:
                failure = error
            later = self._files.snapshot(spec, snapshot)
            if later.digest == snapshot.digest:
                if failure is not None:
                    raise failure
                self._first.setdefault(key, later)
                self._last[key] = later
                return result, later
            snapshot = later
        raise JobFailedError(
            f"the files of {spec.model} change while they are loaded: wait until they are written",
            code=ErrorCode.LOAD_FAILED,
        )

    def is_unchanged(self, spec: EncoderSpec, key: str, digest: str) -> bool:
        """Whether the files of a model, whose encoder has this key, have this digest."""
        last = self._last.get(key)
        if last is not None and last.digest == digest and last.is_current():
            return True
        later = self.snapshot(spec)
        if later is not None and later.digest == digest:
            self._last[key] = later
            return True
        changes = (self.changes(spec, later) or "restored") if later else "they cannot be read"
        log.warning("model files changed", extra={"model": spec.model, "changes": changes})
        return False

    def snapshot(
        self, spec: EncoderSpec, previous: FileSnapshot | None = None
    ) -> FileSnapshot | None:
        """A model's files as they are now; None if they cannot be read."""
        try:
            return self._files.snapshot(spec, previous or self._last.get(encoder_key(spec)))
        except (StitchworkError, OSError):
            return None  # The attempt to load them says why.

    def changes(self, spec: EncoderSpec, snapshot: FileSnapshot | None) -> str:
        """How files differ from the first that were loaded of a model; empty if they do not."""
        first = self._first.get(encoder_key(spec))
        return first.changes(snapshot) if first is not None and snapshot is not None else ""
