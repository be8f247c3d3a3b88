"""Embeddings of a request whose lengths do not fit the anchors of their space."""

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stitchwork.geometry.diagnostics.space_metrics import UNIT_TOLERANCE
from stitchwork.resources import Floats

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


CAUSES: Final = (
    "were they normalised, such as by a vector store?",
    "the anchors were normalised, were the embeddings not?",
    "do they come from the encoder of this space, scaled alike?",
)
"""Of normalised embeddings, of normalised anchors, and of all others."""
ENCODER_CAUSES: Final = (
    "the encoder normalises, the anchors were registered otherwise; register both alike",
    "the anchors were normalised, the encoder does not normalise; register it with normalize",
    "the anchors were not computed by this encoder, or were scaled",
)
"""The same, where the encoder of the space computed the embeddings."""


class AnchorLengths(Protocol):
    """A space, as far as lengths are concerned: a record of the registry, or a map from it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def norm_mean(self) -> float:
        """Mean length of its anchors."""

    @property
    def norm_std(self) -> float:
        """Standard deviation of their lengths."""


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
    def of(
        cls, lengths: NDArray[Any], space: AnchorLengths, *, by_encoder: bool = False
    ) -> "LengthReport":
        """Make a report.

        Args:
            lengths: (n,) finite norms of embeddings.
            space: The space they are said to be of.
            by_encoder: Whether the space's encoder computed them; otherwise they were sent.
        """
        mean, std = space.norm_mean, space.norm_std
        tolerance = max(MAX_RELATIVE_DIFFERENCE * mean, MAX_DEVIATIONS * std)
        # Both extremes decide for all, on the path of every request.
        shortest, longest = float(lengths.min()), float(lengths.max())
        is_unit = shortest > 1 - UNIT_TOLERANCE and longest < 1 + UNIT_TOLERANCE
        has_unit_anchors = abs(mean - 1) + std <= 2 * UNIT_TOLERANCE
        unlikely = len(lengths) >= MIN_UNIT_ROWS or abs(mean - 1) > MIN_UNIT_DEVIATIONS * std
        normalised = is_unit and unlikely and not has_unit_anchors
        if not normalised and mean - tolerance <= shortest and longest <= mean + tolerance:
            return FITTING
        fits = (np.abs(lengths - mean) <= tolerance) & (not normalised)
        if fits.all():
            return FITTING
        mismatched = lengths[~fits]
        origin = " of its encoder" if by_encoder else ""
        count = f"{len(mismatched)} of {len(lengths)} embeddings{origin} have"
        anchors = f"the anchors of space {space.id} {_interval(mean, std)}"
        causes = ENCODER_CAUSES if by_encoder else CAUSES
        cause = causes[0 if normalised else 1 if has_unit_anchors else 2]
        length = _interval(float(np.mean(mismatched)), float(np.std(mismatched)))
        return cls(len(mismatched), (f"{count} length {length}, {anchors}: {cause}",))


FITTING: Final = LengthReport()
"""The report of embeddings whose lengths fit, or are not known."""


def row_lengths(rows: Floats) -> NDArray[Any]:
    """(n,) norms of finite rows (n, d) float32; finite, since float32 may overflow."""
    with np.errstate(over="ignore"):
        lengths: NDArray[Any] = np.sqrt(np.vecdot(rows, rows))
    if not math.isfinite(lengths.max()):
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    return lengths


def _interval(mean: float, std: float) -> str:
    """A mean with its standard deviation, if that shows."""
    return f"{mean:.3g}" if std <= 0.005 * mean else f"{mean:.3g} ± {std:.2g}"
