"""Anchors that were sent together with an encoder, compared with what the encoder gives."""

from typing import Final

import numpy as np

from stitchwork.errors import AnchorSetMismatchError, ErrorCode
from stitchwork.geometry.frame import Frame
from stitchwork.resources import AnchorSet, EncoderSpec, Floats

TOLERANCE: Final = 0.2
"""Largest distance of the encoder's rows to the registered ones, in units of the space's scale.
Other devices and half precision stay below 0.05; unrelated rows are near 1.4."""
MAX_LISTED: Final = 10
"""Rows that an error lists; it counts the others."""


def is_comparable(encoder: EncoderSpec | None, anchor_set: AnchorSet | None) -> bool:
    """Whether an encoder can embed the items of a set, so that its anchors can be compared."""
    if encoder is None or anchor_set is None:
        return False
    return anchor_set.has_items and anchor_set.modality == encoder.modality


def check_sent_anchors(
    anchors: Floats, rows: Floats, ids: tuple[str, ...] | None, encoder: EncoderSpec | None
) -> None:
    """Refuse anchors that are not those of the encoder they were sent with.

    Args:
        anchors: (k, d) the anchors that were sent.
        rows: (k, d') what the encoder gives for the items of the set.
        ids: Names of the anchors; None for their indices.
        encoder: The encoder.

    Raises:
        AnchorSetMismatchError: If they differ; the message names the anchors.
    """
    model = encoder.model if encoder else "the encoder"
    if rows.shape != anchors.shape:
        raise AnchorSetMismatchError(
            f"expected anchors of {rows.shape[1]} numbers, as {model} gives, got "
            f"{anchors.shape[1]}",
            code=ErrorCode.ENCODER_MISMATCH,
        )
    distances = np.linalg.norm(rows.astype(np.float64) - anchors, axis=1)
    distances /= Frame.from_anchors(anchors).scale
    # A distance that is not finite is no match.
    wrong = np.flatnonzero(~(distances <= TOLERANCE)).tolist()
    if not wrong:
        return
    listed = ", ".join(repr(ids[i]) if ids else str(i) for i in wrong[:MAX_LISTED])
    rest = f" and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
    raise AnchorSetMismatchError(
        f"{len(wrong)} of {len(anchors)} anchors differ from what {model} gives for their items by "
        f"more than {TOLERANCE} of the space's scale, up to {distances[wrong].max():.2g}: "
        f"{listed}{rest}. Send the anchors of the encoder, or none",
        code=ErrorCode.ENCODER_MISMATCH,
    )
