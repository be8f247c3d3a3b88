"""Embeddings of a request whose lengths do not fit the anchors of their space."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from stitchwork.geometry.diagnostics.space_metrics import UNIT_TOLERANCE
from stitchwork.resources import Floats, Space

MAX_DEVIATIONS: Final = 15.0
"""Standard deviations from the anchors' mean length within which embeddings of the same encoder
lie: at most 9.4 were measured, of questions in a space of long posts (all-MiniLM-L6-v2)."""
MAX_RELATIVE_DIFFERENCE: Final = 0.2
"""Difference from the mean length that does no harm, relative to it, however equal the anchors'
lengths are."""
MIN_UNIT_DEVIATIONS: Final = 3.0
"""Distance from length one, in standard deviations of the anchors' lengths, beyond which a few
embeddings of exactly this length are no coincidence."""
MIN_UNIT_ROWS: Final = 3
"""Number of embeddings, all of length one, that is no coincidence in any space."""


@dataclass(frozen=True, slots=True)
class LengthReport:
    """Embeddings that were scaled differently from the anchors of their space.

    Attributes:
        mismatched: Their number.
        warnings: One sentence if there are any, otherwise empty.
    """

    mismatched: int = 0
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Floats, space: Space) -> "LengthReport":
        """Make a report.

        Args:
            rows: (n, d) finite float32 embeddings.
            space: The space they are said to be of.
        """
        with np.errstate(over="ignore"):
            lengths = np.sqrt(np.vecdot(rows, rows))
        if not np.isfinite(lengths).all():
            lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        mean, std = space.norm_mean, space.norm_std
        fits = np.abs(lengths - mean) <= max(MAX_RELATIVE_DIFFERENCE * mean, MAX_DEVIATIONS * std)
        is_unit = bool((np.abs(lengths - 1) < UNIT_TOLERANCE).all())
        unlikely = len(rows) >= MIN_UNIT_ROWS or abs(mean - 1) > MIN_UNIT_DEVIATIONS * std
        normalised = is_unit and unlikely and abs(mean - 1) + std > 2 * UNIT_TOLERANCE
        if normalised:
            fits &= False
        if fits.all():
            return cls()
        mismatched = lengths[~fits]
        count = f"{len(mismatched)} of {len(rows)} embeddings have"
        anchors = f"the anchors of space {space.id} {_interval(mean, std)}"
        if normalised:
            question = "were they normalised, such as by a vector store?"
        elif abs(mean - 1) + std < 2 * UNIT_TOLERANCE:
            question = "the anchors were normalised, were the embeddings not?"
        else:
            question = "do they come from the encoder of this space, scaled alike?"
        length = _interval(float(np.mean(mismatched)), float(np.std(mismatched)))
        return cls(len(mismatched), (f"{count} length {length}, {anchors}: {question}",))


def _interval(mean: float, std: float) -> str:
    """A mean with its standard deviation, if that shows."""
    return f"{mean:.3g}" if std <= 0.005 * mean else f"{mean:.3g} ± {std:.2g}"
