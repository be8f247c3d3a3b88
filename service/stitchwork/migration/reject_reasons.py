"""Reasons for which rows are not translated, counted by their kinds."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from stitchwork.resources.moves import MAX_REASON, MAX_REASONS

OTHER: Final = "other reasons"


def reason_kind(reason: str) -> str:
    """The part of a reason that many rows have; details of one row follow a semicolon."""
    return shortened(reason.partition(";")[0], MAX_REASON)


def shortened(text: str, length: int) -> str:
    """A text of at most this length."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def sum_reasons(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sums of counts by kinds, the largest first; the smallest of many are one sum."""
    sums: Counter[str] = Counter()
    for part in counts:
        sums.update(part)
    if len(sums) <= MAX_REASONS:
        return dict(sums.most_common())
    other = sums.pop(OTHER, 0)
    frequent = dict(sums.most_common(MAX_REASONS - 1))
    frequent[OTHER] = other + sums.total() - sum(frequent.values())
    return frequent
