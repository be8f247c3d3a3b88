"""Shifted anchors: rows of one space that fit those of another some rows later or earlier.

A row that was lost or added shifts all rows after it. Most pairs may then be wrong, and those of
neighbours in a sorted set are wrong in a way that is hard to tell from right; but a block of rows
and the shifted block have the same cosines among themselves.
"""

from itertools import groupby
from typing import Final, NamedTuple

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.diagnostics.space_metrics import agreement
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import evenly_spaced

MAX_SHIFT: Final = 3
BLOCK_ROWS: Final = 64
"""Rows of a block: 2,016 cosines, whose correlation has a standard error of about 0.02."""
MAX_BLOCKS: Final = 64
"""Blocks that are compared, evenly spaced if there are more."""
MIN_ROWS: Final = 20
MIN_GAIN: Final = 0.1
"""Agreement that a shift must gain. Of right pairs it loses: in banking77, whose questions are
sorted by intent, 0.16 to 0.3."""


class RowShift(NamedTuple):
    """Consecutive rows that are shifted alike.

    Attributes:
        first: The first of these rows, to a block.
        last: The last of them, to a block.
        shift: How many rows later they fit; negative for earlier.
    """

    first: int
    last: int
    shift: int


def row_shifts(x: Array, y: Array) -> list[RowShift]:
    """Rows of one space that fit those of another some rows later or earlier.

    Args:
        x: (k, d_X) anchors.
        y: (k, d_Y) anchors that should be of the same inputs in the same order.

    Returns:
        Runs of rows that agree with those up to 3 rows later or earlier far better than with those
        of the same index; empty if there are none, as for fewer than 20 anchors. Scaling, rotating
        or moving a space changes nothing.
    """
    count = x.shape[0]
    if count < MIN_ROWS + 2 * MAX_SHIFT:
        return []
    size = min(BLOCK_ROWS, count)
    starts = [size * int(i) for i in evenly_spaced(count // size, MAX_BLOCKS)]
    # The last block ends with the last row.
    stops = [*starts[1:], count]
    shifts = [_shift(x, y, start, start + size) for start in starts]
    runs = []
    for shift, blocks in groupby(range(len(starts)), key=lambda block: shifts[block]):
        members = list(blocks)
        if shift:
            runs.append(RowShift(starts[members[0]], stops[members[-1]] - 1, shift))
    return runs


def _shift(x: Array, y: Array, start: int, stop: int) -> int:
    """The shift of one block; 0 if its rows fit best where they are."""
    # All shifts are judged on the same rows, which have a partner in y at each.
    first = max(start, MAX_SHIFT)
    last = min(stop, x.shape[0] - MAX_SHIFT)
    values = {
        shift: _agreement(x[first:last, :], y[first + shift : last + shift, :])
        for shift in range(-MAX_SHIFT, MAX_SHIFT + 1)
    }
    best = max(values, key=lambda shift: values[shift])
    return best if values[best] > values[0] + MIN_GAIN else 0


def _agreement(x: Array, y: Array) -> float:
    try:
        return agreement(Frame.from_anchors(x), Frame.from_anchors(y))
    except InvalidInputError:
        # These rows are all equal.
        return 0.0
