"""Checks that an encoder is the one that a space was registered with.

Model files change on disk, tags move on a hub, and another library version may pool differently:
the embeddings then look valid and mean nothing. Other files are noticed by their digest. For the
rest, a few of the space's anchors are embedded again when an encoder is first used for it, and
compared with the registered rows.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from cachetools import LRUCache

from stitchwork.errors import (
    ConflictError,
    ErrorCode,
    RegistryUnavailableError,
    StitchworkError,
)
from stitchwork.geometry.diagnostics.space_metrics import row_distance
from stitchwork.geometry.frame import Frame
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.registry.registry import Registry
from stitchwork.registry.sent_anchors import TOLERANCE
from stitchwork.registry.transitions import ADVICE_WITH_HEADS
from stitchwork.resources import Space, encoder_key, unpack_items

log = logging.getLogger(__name__)

CHECKED_ANCHORS: Final = 4
"""Anchors that are embedded again; another encoder already differs at the first one."""
MAX_RESULTS: Final = 4096
RESTORE_FILES: Final = "restore the files"


class CheckResult(NamedTuple):
    """The result of one check.

    Attributes:
        loaded: The encoder that was checked.
        files_digest: Digest of the space's files; None if it has none yet.
        error: Why the encoder was refused; None if it passed.
    """

    loaded: weakref.ref[LoadedEncoder]
    files_digest: str | None
    error: ConflictError | None

    def holds(self, space: Space, loaded: LoadedEncoder) -> bool:
        """Whether the same check would have the same result."""
        if self.loaded() is not loaded:
            return False
        # A job may name the record from before the files were bound to it.
        is_older = self.error is None and space.files_digest is None
        return is_older or space.files_digest == self.files_digest


class Refusal(NamedTuple):
    """A space that a worker refuses to serve.

    Attributes:
        version: Its version.
        encoder: Key of its encoder.
        reason: Why.
    """

    version: str
    encoder: str
    reason: str


class EncoderChecker:
    """Checks each pair of a space and a loaded encoder once, and remembers the results.

    Args:
        registry: Stores the anchors.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._guard = threading.Lock()
        self._results: LRUCache[str, CheckResult] = LRUCache(MAX_RESULTS)
        self._refused: dict[str, Refusal] = {}

    def check(
        self, space: Space, loaded: LoadedEncoder, progress: Callable[[], None] = lambda: None
    ) -> None:
        """Refuse an encoder that is not the one that a space was registered with.

        The rows of a space whose anchor set has no items cannot be compared; its files can.

        Args:
            space: The space.
            loaded: The encoder.
            progress: Called after each anchor that is prepared, and after each batch of them.

        Raises:
            ConflictError: If the encoder has other files, or embeds the anchors differently. The
                same encoder is not compared again.
            RegistryUnavailableError: If the anchors cannot be read.
        """
        with self._guard:
            result = self._results.get(space.version)
        if result is None or not result.holds(space, loaded):
            result = self._compare(space, loaded, progress)
            with self._guard:
                self._results[space.version] = result
                if result.error is None:
                    self._refused.pop(space.id, None)
                else:
                    encoder = encoder_key(space.encoder) if space.encoder else ""
                    self._refused[space.id] = Refusal(space.version, encoder, result.error.message)
            if result.error is not None:
                log.error("encoder refused", extra={"space": space.id, "code": result.error.code})
        if result.error is not None:
            raise result.error

    def reproduces(self, space: Space, loaded: LoadedEncoder) -> bool:
        """Whether an encoder is the one that a space was registered with.

        Raises:
            RegistryUnavailableError: If the anchors cannot be read.
        """
        return self._compare(space, loaded).error is None

    def refused(self) -> Mapping[str, str]:
        """The ids of the spaces that this worker refuses to serve, with the reasons.

        Those that were registered again, or deleted, are forgotten.
        """
        with self._guard:
            refused = dict(self._refused)
        if refused:
            try:
                entries = self._registry.spaces.read(*refused)
            except RegistryUnavailableError:
                entries = []  # They are listed until it is known that they are served.
            for entry in entries:
                if entry.version != refused[entry.id].version:
                    del refused[entry.id]
                    with self._guard:
                        self._refused.pop(entry.id, None)
        return {id_: refusal.reason for id_, refusal in refused.items()}

    def refuses(self, encoder: str) -> bool:
        """Whether this worker refuses to serve a space of an encoder.

        Args:
            encoder: Key of the encoder.
        """
        with self._guard:
            return any(refusal.encoder == encoder for refusal in self._refused.values())

    def _compare(
        self, space: Space, loaded: LoadedEncoder, progress: Callable[[], None] = lambda: None
    ) -> CheckResult:
        """Compare files, then rows; what passes is bound to a space that has no files yet."""
        expected = space.files_digest or self._bound_files(space)
        error = self._compare_files(space, loaded, expected)
        if error is None and (reason := self._compare_rows(space, loaded, progress)) is not None:
            # With the same files, something else differs.
            cause = "run the library versions that it was registered with"
            error = self._error(space, loaded, reason, cause if expected else RESTORE_FILES)
        if error is None and expected is None and loaded.files_digest:
            expected = self._registry.bind_files(space, loaded.files_digest)
            error = self._compare_files(space, loaded, expected)
        return CheckResult(weakref.ref(loaded), expected, error)

    def _compare_files(
        self, space: Space, loaded: LoadedEncoder, expected: str | None
    ) -> ConflictError | None:
        if not expected or not loaded.files_digest or expected == loaded.files_digest:
            return None
        reason = f"expected files of digest {expected}, got {loaded.files_digest}"
        return self._error(space, loaded, reason, RESTORE_FILES)

    def _bound_files(self, space: Space) -> str | None:
        """The files that a worker has bound to a space meanwhile."""
        record = self._registry.spaces.read(space.id)[0].record
        return record.files_digest if record and record.version == space.version else None

    def _compare_rows(
        self, space: Space, loaded: LoadedEncoder, progress: Callable[[], None]
    ) -> str | None:
        """How rows of an encoder differ from the registered ones; None if they do not."""
        (entry,) = self._registry.anchor_sets.read(space.anchor_set)
        anchor_set, modality = entry.record, loaded.encoder.modality
        if anchor_set is None or not anchor_set.has_items or anchor_set.modality != modality:
            return None
        anchors = self._registry.spaces.arrays(space.id, space.version)["anchors"]
        if anchors.shape[1] != loaded.encoder.dim:
            return f"expected embeddings of {anchors.shape[1]} dimensions, got {loaded.encoder.dim}"
        arrays = self._registry.anchor_sets.arrays(anchor_set.id, anchor_set.version)
        indices = np.linspace(0, len(anchors) - 1, CHECKED_ANCHORS).astype(int).tolist()
        items = [unpack_items(arrays, modality, i, i + 1)[0] for i in indices]
        try:
            prepared = loaded.encoder.prepare(items, progress=progress)
            rows = loaded.batcher.embed(prepared, CHECKED_ANCHORS, progress).cpu().numpy()
        except StitchworkError as error:
            if error.code == ErrorCode.OUT_OF_MEMORY:
                raise
            return f"it cannot embed the anchors: {error.message}"
        if not np.isfinite(rows).all():
            return "its embeddings of the anchors are not finite"
        distance = row_distance(rows, anchors[indices], Frame.from_anchors(anchors).scale)
        if distance <= TOLERANCE:
            return None
        return (
            f"expected {CHECKED_ANCHORS} anchors within {TOLERANCE} of the space's scale of the "
            f"registered rows, got {distance:.2f}"
        )

    def _error(
        self, space: Space, loaded: LoadedEncoder, reason: str, remedy: str
    ) -> ConflictError:
        model = space.encoder.model if space.encoder else "the encoder"
        changes = f" (since this worker loaded it, {loaded.changes})" if loaded.changes else ""
        (entry,) = self._registry.spaces.read(space.id)
        again = "register the space again, with anchors of this encoder if it has anchors of yours"
        advice = ADVICE_WITH_HEADS if entry.dependents else again
        return ConflictError(
            f"{model} no longer reproduces space {space.id}: {reason}{changes}; {remedy}, "
            f"or {advice}",
            code=ErrorCode.ENCODER_MISMATCH,
        )
