"""Compares anchors that were sent together with an encoder with what the encoder gives."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stitchwork.errors import InvalidInputError

if TYPE_CHECKING:
    from stitchwork.client import Floats, Stitchwork

TOLERANCE: Final = 0.2
"""Largest distance of an anchor from the encoder's row, in units of the anchors' mean distance from
their mean, as for workers; other devices and half precision stay below 0.05."""
MAX_LISTED: Final = 10


def check_anchors(
    client: "Stitchwork", space: str, anchors: "Floats", inputs: Sequence[Any], *, progress: bool
) -> None:
    """Embed the inputs of the anchors by a space's encoder, and compare.

    Args:
        client: A client of the service.
        space: Id of the space.
        anchors: (k, d) anchors, in the order of the inputs.
        inputs: The k inputs.
        progress: Whether to draw a bar.

    Raises:
        InvalidInputError: If anchors differ; the message names their rows.
        ConflictError: If a worker refuses the encoder, since it gives other rows altogether.
    """
    rows = client.embed(space, inputs, progress=progress)
    centred = anchors.astype(np.float64) - anchors.mean(axis=0, dtype=np.float64)
    scale = np.linalg.norm(centred, axis=1).mean()
    wrong = np.flatnonzero(np.linalg.norm(rows - anchors, axis=1) > TOLERANCE * scale)
    if not wrong.size:
        return
    listed = ", ".join(map(str, wrong[:MAX_LISTED].tolist()))
    rest = f" and {wrong.size - MAX_LISTED} more" if wrong.size > MAX_LISTED else ""
    raise InvalidInputError(
        f"{wrong.size} of {len(anchors)} anchors differ from what the encoder gives for their "
        f"inputs: rows {listed}{rest}. Space {space} is registered with the anchors as they were "
        "sent; send those of the encoder, or none"
    )
