"""Comparison of the anchors of two spaces on one set, and its sentences."""

from collections import Counter
from collections.abc import Container
from typing import Final, NamedTuple

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.diagnostics.misalignment import misaligned_pairs
from stitchwork.geometry.diagnostics.row_shifts import RowShift, row_shifts
from stitchwork.geometry.diagnostics.space_metrics import agreement
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import evenly_spaced
from stitchwork.registry.declarations import DISAGREEMENT, SUSPICIOUS
from stitchwork.resources import Floats, ShiftedRows, Space, SpaceCheck

MAX_ANCHORS: Final = 2000
"""Evenly spaced anchors that are compared: the cost grows with their cube."""
MAX_CHECKS: Final = 16
"""Comparisons in a record; the oldest that found nothing make room for new ones."""
MAX_NAMES: Final = 1000
"""Misaligned anchors of a comparison that are stored."""
MAX_LISTED: Final = 10
"""Misaligned anchors that a warning lists."""
MIN_PROBABILITY: Final = 0.5
"""Probability from which an anchor counts as misaligned."""
MIN_SHARE: Final = 0.01
MIN_COUNT: Final = 3
"""Misaligned anchors, as a share and as a number, below which there is no warning: a few anchors of
spaces that are registered correctly may fit no better."""


class AnchorComparison(NamedTuple):
    """The anchors of a space, compared with those of another.

    Attributes:
        agreement: Correlation of the cosines of the anchors.
        anchors: Number of anchors that were compared.
        shifts: Rows that fit those of the other some rows later or earlier.
        misaligned: Indices of anchors that probably do not belong together, most probable first;
            empty if there are shifts.
        offset: By how many rows most of these are off; 0 if they do not have that in common.
    """

    agreement: float
    anchors: int
    shifts: tuple[RowShift, ...] = ()
    misaligned: tuple[int, ...] = ()
    offset: int = 0

    def reverse(self) -> "AnchorComparison":
        """The comparison of the other space with this one."""
        shifts = tuple(run._replace(shift=-run.shift) for run in self.shifts)
        return self._replace(shifts=shifts, offset=-self.offset)


def compare_anchors(x: Floats, y: Floats) -> AnchorComparison:
    """Compare the anchors of two spaces on one set.

    Args:
        x: (k, d_X) anchors of one space.
        y: (k, d_Y) anchors of another.
    """
    used = evenly_spaced(len(x), MAX_ANCHORS)
    try:
        frames = Frame.from_anchors(x[used]), Frame.from_anchors(y[used])
        value = agreement(*frames)
        shifts = tuple(row_shifts(x, y))
        pairs = [] if shifts else misaligned_pairs(*frames)
    except InvalidInputError:
        # The anchors that were drawn are all at their mean.
        return AnchorComparison(0.0, len(used))
    wrong = [pair for pair in pairs if pair.probability >= MIN_PROBABILITY]
    offsets = Counter(pair.best_match - pair.pair for pair in wrong)
    offset, count = offsets.most_common(1)[0] if offsets else (0, 0)
    is_common = len(used) == len(x) and 2 * count > len(wrong)
    indices = tuple(int(used[pair.pair]) for pair in wrong)
    return AnchorComparison(value, len(used), shifts, indices, offset if is_common else 0)


def describe(comparison: AnchorComparison, other: Space, ids: tuple[str, ...] | None) -> SpaceCheck:
    """A comparison as it is stored, with a warning if something seems wrong.

    Args:
        comparison: The comparison.
        other: The other space.
        ids: Names of the anchors; None for their indices.
    """
    misaligned = comparison.misaligned[:MAX_NAMES]
    return SpaceCheck(
        space=other.id,
        version=other.version,
        agreement=comparison.agreement,
        anchors=comparison.anchors,
        shifts=tuple(ShiftedRows(**run._asdict()) for run in comparison.shifts),
        misaligned_count=len(comparison.misaligned),
        misaligned=tuple(ids[i] if ids else i for i in misaligned),
        warning=_warning(comparison, other, ids),
    )


def with_checks(space: Space, checks: tuple[SpaceCheck, ...], present: Container[str]) -> Space:
    """The record of a space with further comparisons, their warnings, and the best agreement.

    Args:
        space: The record.
        checks: The comparisons. They replace earlier ones with the same spaces.
        present: Ids of the spaces on the set; comparisons with others are dropped.
    """
    before = space.checks or ()
    names = {check.space for check in checks}
    merged = [check for check in before if check.space not in names] + [*checks]
    merged = [check for check in merged if check.space in present]
    while len(merged) > MAX_CHECKS:
        merged.remove(next((check for check in merged if not check.warning), merged[0]))
    outdated = {check.warning for check in before}
    warnings = [warning for warning in space.warnings if warning not in outdated]
    current = [check.warning for check in merged if check.warning]
    if current or not merged:
        # They name the spaces, or there is none to agree with any more.
        warnings = [warning for warning in warnings if not warning.startswith(DISAGREEMENT)]
    warnings += current
    agreements = [check.agreement for check in merged]
    update = {
        "checks": tuple(merged),
        "warnings": tuple(warnings),
        "agreement": max(agreements, default=None),
    }
    return space.model_copy(update=update)


def _warning(comparison: AnchorComparison, other: Space, ids: tuple[str, ...] | None) -> str | None:
    shifts, misaligned, offset = comparison.shifts, comparison.misaligned, comparison.offset
    if shifts:
        runs = [f"{run.first} to {run.last} fit {_rows(run.shift)}" for run in shifts]
        rest = f" and {len(runs) - MAX_LISTED} more" if len(runs) > MAX_LISTED else ""
        return (
            f"anchors are shifted against those of space {other.id}: rows "
            f"{', '.join(runs[:MAX_LISTED])}{rest}; was a row lost or added in one of the two?"
        )
    if comparison.agreement < SUSPICIOUS:
        return (
            f"agreement with space {other.id} is near zero ({comparison.agreement:.2f}): probably "
            "not the same anchors in the same order"
        )
    if len(misaligned) < max(MIN_COUNT, MIN_SHARE * comparison.anchors):
        return None
    names = [repr(ids[i]) if ids else str(i) for i in sorted(misaligned)]
    rest = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    pattern = f" and mostly fit those {_rows(offset)}" if offset else ""
    return (
        f"{len(misaligned)} of {comparison.anchors} anchors probably do not belong together with "
        f"those of space {other.id}{pattern}: {', '.join(names[:MAX_LISTED])}{rest}"
    )


def _rows(count: int) -> str:
    plural = "" if abs(count) == 1 else "s"
    return f"{abs(count)} row{plural} {'later' if count > 0 else 'earlier'}"
