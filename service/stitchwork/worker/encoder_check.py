"""Checks that an encoder still reproduces the space that was registered for it.

Model files change on disk, tags move on a hub, and another library version may pool differently:
the embeddings then look valid and mean nothing. When an encoder is first used for a space, a few of
the space's anchors are therefore embedded again and compared with the registered rows.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from cachetools import LRUCache

from stitchwork.errors import ConflictError, ErrorCode, StitchworkError
from stitchwork.geometry.frame import Frame
from stitchwork.models.encoder_cache import EncoderCache, LoadedEncoder
from stitchwork.registry.registry import Registry
from stitchwork.resources import Space, encoder_key, unpack_items

log = logging.getLogger(__name__)

CHECKED_ANCHORS: Final = 4
"""Anchors that are embedded again; another encoder already differs at the first one."""
TOLERANCE: Final = 0.2
"""Largest root mean square distance to the registered rows, in units of the space's scale. Other
devices and half precision stay below 0.05; unrelated rows are near 1.4."""
RECHECK_SECONDS: Final = 30.0
"""A refused encoder is checked again after this long."""
MAX_RESULTS: Final = 4096


class CheckResult(NamedTuple):
    """The result of one check.

    Attributes:
        loaded: The encoder that was checked.
        expires: When a failed check is repeated, by the checker's clock.
        error: Why the encoder was refused; None if it passed.
    """

    loaded: LoadedEncoder
    expires: float
    error: ConflictError | None


class EncoderChecker:
    """Checks each pair of a space and a loaded encoder once, and remembers the results.

    Args:
        registry: Stores the anchors.
        encoders: Evicts an encoder that is refused, so that it is loaded again.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        encoders: EncoderCache,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._registry = registry
        self._encoders = encoders
        self._guard = threading.Lock()
        self._results: LRUCache[str, CheckResult] = LRUCache(MAX_RESULTS)
        self._refused: dict[str, str] = {}

    def check(self, space: Space, loaded: LoadedEncoder) -> None:
        """Refuse an encoder that does not reproduce a space.

        A space whose anchor set has no items cannot be checked, and passes.

        Raises:
            ConflictError: If the encoder embeds the anchors differently. It is checked again after
                a while.
            RegistryUnavailableError: If the anchors cannot be read.
        """
        with self._guard:
            result = self._results.get(space.version)
        if result is not None:
            if result.error is None and result.loaded is loaded:
                return
            if result.error is not None and self._clock() < result.expires:
                raise result.error
        error = self._compare(space, loaded)
        expires = self._clock() + RECHECK_SECONDS
        with self._guard:
            self._results[space.version] = CheckResult(loaded, expires, error)
            if error is None:
                self._refused.pop(space.id, None)
            else:
                self._refused[space.id] = error.message
        if error is not None:
            log.error("encoder refused", extra={"space": space.id, "code": error.code})
            if space.encoder:
                self._encoders.evict(encoder_key(space.encoder))
            raise error

    def refused(self) -> Mapping[str, str]:
        """The ids of the spaces that this worker refuses to serve, with the reasons."""
        with self._guard:
            return dict(self._refused)

    def _compare(self, space: Space, loaded: LoadedEncoder) -> ConflictError | None:
        (entry,) = self._registry.anchor_sets.read(space.anchor_set)
        anchor_set, modality = entry.record, loaded.encoder.modality
        if anchor_set is None or not anchor_set.has_items or anchor_set.modality != modality:
            return None
        anchors = self._registry.spaces.arrays(space.id, space.version)["anchors"]
        if anchors.shape[1] != loaded.encoder.dim:
            return _mismatch(
                space,
                f"expected embeddings of {anchors.shape[1]} dimensions, got {loaded.encoder.dim}",
            )
        arrays = self._registry.anchor_sets.arrays(anchor_set.id, anchor_set.version)
        indices = np.linspace(0, len(anchors) - 1, CHECKED_ANCHORS).astype(int).tolist()
        items = [unpack_items(arrays, modality, i, i + 1)[0] for i in indices]
        try:
            prepared = loaded.encoder.prepare(items)
            rows = loaded.batcher.embed(prepared, CHECKED_ANCHORS).cpu().numpy()
        except StitchworkError as error:
            if error.code == ErrorCode.OUT_OF_MEMORY:
                raise
            return _mismatch(space, f"it cannot embed the anchors: {error.message}")
        distances = np.linalg.norm(rows - anchors[indices], axis=1)
        scale = Frame.from_anchors(anchors).scale
        distance = float(np.sqrt(np.mean((distances / scale) ** 2)))
        if distance <= TOLERANCE:
            return None
        return _mismatch(
            space,
            f"expected {CHECKED_ANCHORS} anchors within {TOLERANCE} of the space's scale of the "
            f"registered rows, got {distance:.2f}",
        )


def _mismatch(space: Space, reason: str) -> ConflictError:
    model = space.encoder.model if space.encoder else "the encoder"
    return ConflictError(
        f"{model} no longer reproduces space {space.id}: {reason}; register the space again",
        code=ErrorCode.ENCODER_MISMATCH,
    )
