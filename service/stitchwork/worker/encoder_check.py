"""Does an encoder still yield the space that was registered for it?

Files change on disk, tags move on a hub, another release pools in another way: the embeddings then
look fine and mean nothing. So a few anchors are embedded again when an encoder is first used for a
space, and compared with the rows that were registered.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import numpy as np

from stitchwork.errors import ConflictError, ErrorCode, StitchworkError
from stitchwork.geometry.frame import Frame
from stitchwork.models.encoder_cache import EncoderCache, LoadedEncoder
from stitchwork.registry.registry import Registry
from stitchwork.resources import Space, encoder_key, unpack_items

log = logging.getLogger(__name__)

CHECKED: Final = 4
"""Anchors that are embedded again; those of another encoder are off on the very first."""
TOLERANCE: Final = 0.2
"""Root mean square distance to the registered rows, in units of the space's scale. Other devices
and half precision stay below 0.05, unrelated rows are near 1.4."""
AGAIN_SECONDS: Final = 30.0
KEPT: Final = 4096


class EncoderChecker:
    """Remembers which spaces an encoder was found to yield, or not.

    Args:
        registry: Where anchors are.
        catalog: Lets go of an encoder that is refused, so that it is loaded anew.
    """

    def __init__(self, registry: Registry, catalog: EncoderCache) -> None:
        self._registry = registry
        self._catalog = catalog
        self._guard = threading.Lock()
        self._seen: OrderedDict[str, tuple[LoadedEncoder, float, ConflictError | None]] = (
            OrderedDict()
        )
        self._refused: dict[str, str] = {}

    def check(self, space: Space, loaded: LoadedEncoder) -> None:
        """Refuse an encoder that does not yield a space.

        A space whose set has no items cannot be checked, and passes.

        Raises:
            ConflictError: If the anchors come out elsewhere; asked again later, it is looked again.
            RegistryUnavailableError: If the anchors cannot be read.
        """
        with self._guard:
            by, until, error = self._seen.get(space.version, (None, 0.0, None))
        if by is loaded and error is None:
            return
        if error is not None and time.monotonic() < until:
            raise error
        error = self._compare(space, loaded)
        with self._guard:
            self._seen[space.version] = (loaded, time.monotonic() + AGAIN_SECONDS, error)
            self._seen.move_to_end(space.version)
            while len(self._seen) > KEPT:
                self._seen.popitem(last=False)
            if error is None:
                self._refused.pop(space.id, None)
            else:
                self._refused[space.id] = error.message
        if error is not None:
            log.error("an encoder does not yield its space", extra={"space": space.id})
            if space.encoder:
                self._catalog.evict(encoder_key(space.encoder))
            raise error

    def refused(self) -> Mapping[str, str]:
        """The spaces that this worker cannot serve as they are registered, and why."""
        with self._guard:
            return dict(self._refused)

    def _compare(self, space: Space, loaded: LoadedEncoder) -> ConflictError | None:
        (anchor_set,) = self._registry.anchor_sets.read(space.anchor_set)
        known = anchor_set.record
        if known is None or not known.has_items or known.modality != loaded.encoder.modality:
            return None
        anchors = self._registry.spaces.arrays(space.id, space.version)["anchors"]
        if anchors.shape[1] != loaded.encoder.dim:
            return _refusal(
                space,
                f"gives {loaded.encoder.dim} numbers, the registered anchors have "
                f"{anchors.shape[1]}",
            )
        arrays = self._registry.anchor_sets.arrays(known.id, known.version)
        picked = np.linspace(0, len(anchors) - 1, CHECKED).astype(int).tolist()
        items = [unpack_items(arrays, known.modality, i, i + 1)[0] for i in picked]
        try:
            rows = loaded.batcher.embed(loaded.encoder.prepare(items), CHECKED).cpu().numpy()
        except StitchworkError as error:
            if error.code == ErrorCode.OUT_OF_MEMORY:
                raise
            return _refusal(space, f"no longer takes its anchors: {error.message}")
        off = np.linalg.norm(rows - anchors[picked], axis=1) / Frame.from_anchors(anchors).scale
        found = float(np.sqrt(np.mean(off**2)))
        if found <= TOLERANCE:
            return None
        return _refusal(
            space,
            f"puts {CHECKED} of its anchors {found:.2f} of the space's scale away from where they "
            f"were registered, expected at most {TOLERANCE}",
        )


def _refusal(space: Space, reason: str) -> ConflictError:
    model = space.encoder.model if space.encoder else "the encoder"
    return ConflictError(
        f"{model} no longer yields space {space.id}: it {reason}; register the space again",
        code=ErrorCode.ENCODER_MISMATCH,
    )
