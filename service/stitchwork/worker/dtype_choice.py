"""Chooses the data type of an encoder, by comparison with float32 on a sample of the anchors."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from stitchwork.geometry.diagnostics.row_precision import row_precision
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.models.static_encoder import StaticEncoder
from stitchwork.resources import DtypePrecision, EncoderSpec, Floats, Item, encoder_key
from stitchwork.worker.encoder_loading import EncoderLoading

log = logging.getLogger(__name__)

SAMPLE: Final = 64
"""Anchors on which rows are compared."""


def sample_indices(count: int) -> list[int]:
    """Indices of the anchors that are compared, evenly spaced over all of them."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(SAMPLE, count))})


def choose_dtype(
    spec: EncoderSpec,
    declared: str,
    items: Callable[[], Sequence[Item]],
    encoders: EncoderCache,
    load: EncoderLoading,
    progress: Callable[[], None],
) -> tuple[EncoderSpec, DtypePrecision | None]:
    """The encoder with the data type that is in force.

    Args:
        spec: The encoder, whose data type may have been chosen before.
        declared: The data type of the declaration; only `auto` leaves a choice.
        items: Returns the sample of the anchors.
        encoders: What this worker computes in.
        load: Loads an encoder, and waits until it is compiled.
        progress: Called after each batch that is embedded.

    Returns:
        The encoder, and its comparison with float32 if it was compared.

    Raises:
        StitchworkError: If the sample cannot be embedded.
    """
    dtype = encoders.preferred_dtype if spec.dtype == "auto" else spec.dtype
    chosen, plain = (spec.model_copy(update={"dtype": name}) for name in (dtype, "float32"))
    if dtype == "float32":
        return chosen, None
    was_loaded = encoder_key(plain) in encoders.loaded()
    reference = load(plain, prove=True)
    if declared == "auto" and isinstance(reference.encoder, StaticEncoder):
        return plain, None
    sample = items()

    def rows(loaded: LoadedEncoder) -> Floats:
        prepared = loaded.encoder.prepare(sample, progress=progress)
        result: Floats = loaded.batcher.embed(prepared, SAMPLE, progress).cpu().numpy()
        return result

    expected = rows(reference)
    if not was_loaded:
        encoders.evict(encoder_key(plain))
    result = row_precision(rows(load(chosen, prove=True)), expected)
    precision = DtypePrecision(
        dtype=dtype,
        rows=len(sample),
        min_cosine=result.min_cosine,
        same_nearest=result.same_nearest,
    )
    if declared == "auto" and not result.is_equivalent:
        chosen = plain
    extra = {"model": spec.model, "dtype": chosen.dtype, **precision.model_dump(exclude={"dtype"})}
    log.info("data type chosen", extra=extra)
    return chosen, precision


def in_force(loaded: LoadedEncoder) -> dict[str, Any]:
    """What the record of a space shows of its encoder, and its version depends on."""
    dtype = str(loaded.encoder.dtype).removeprefix("torch.")
    names, libraries = list(loaded.label_names), dict(loaded.libraries)
    return {"dtype": dtype, "label_names": names, "libraries": libraries}
