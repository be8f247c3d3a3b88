"""Numbers of the report out of the records of experiments: means over pairs and draws."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stitchwork.evaluation.experiments.methods import IRP_BEST, PROCRUSTES, RIDGE_BOTH
from stitchwork.evaluation.experiments.study import Record
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

NOISE = 0.005
"""Differences below this are called ties, whatever the draws say."""


class Mean(NamedTuple):
    """A mean over pairs and draws, and the spread over pairs."""

    mean: float
    std: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f}"


def where(records: Iterable[Record], **wanted: object) -> list[Record]:
    """The records with these values."""
    return [one for one in records if all(one[name] == value for name, value in wanted.items())]


def values(records: Iterable[Record], name: str) -> list[float]:
    """Their values of one measure."""
    return [float(one[name]) for one in records]


def over_pairs(records: Sequence[Record], value: Callable[[Record], float]) -> Mean | None:
    """Mean and spread over pairs of each pair's mean over draws; None of nothing."""
    of_pair: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in records:
        of_pair[one["source"], one["target"]].append(value(one))
    if not of_pair:
        return None
    means = [float(np.mean(own)) for own in of_pair.values()]
    return Mean(float(np.mean(means)), float(np.std(means)))


def measured(records: Sequence[Record], name: str) -> Mean | None:
    """`over_pairs` of one measure, of the records that have it."""
    return over_pairs([one for one in records if name in one], lambda one: float(one[name]))


def weaker_share(native: Mapping[str, Mapping[str, float]], kind: str) -> Callable[[Record], float]:
    """A record's accuracy as a share of the weaker of the two native accuracies."""

    def share(one: Record) -> float:
        weaker = min(native[one["source"]][kind], native[one["target"]][kind])
        return float(one[kind]) / weaker

    return share


class Versus(NamedTuple):
    """The default bridge against something else, on the same pairs and draws.

    Attributes:
        difference: Mean over pairs and draws, the default's minus the other's.
        noise: Twice the standard error over draws, no less than 0.005.
    """

    difference: float
    noise: float

    @property
    def verdict(self) -> str:
        """In one word."""
        if abs(self.difference) <= self.noise:
            return "tie"
        return "above" if self.difference > 0 else "below"

    def __str__(self) -> str:
        return f"{self.difference:+.3f} ({self.verdict})"


def versus(records: Sequence[Record], other: str, name: str) -> Versus:
    """The default bridge against another method at one number of anchors.

    Args:
        records: Of one number of anchors.
        other: Its name.
        name: The measure.
    """
    draws = sorted({one["draw"] for one in records})
    found = []
    for number in draws:
        both = [
            np.mean(values(where(records, draw=number, method=method), name))
            for method in (DEFAULT_BRIDGE, other)
        ]
        found.append(float(both[0] - both[1]))
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else 0.0
    return Versus(float(np.mean(found)), max(NOISE, 2 * error))


RIVALS = (
    ("linear", RIDGE_BOTH),
    ("mlp", RIDGE_BOTH),
    ("recall1", PROCRUSTES),
    ("linear", IRP_BEST),
)
"""What the default is held against."""


def methods(records: Iterable[Record]) -> list[str]:
    """Their methods in the order of the records."""
    return list(dict.fromkeys(one["method"] for one in records))


def crossing(data: Record) -> list[Record]:
    """Records of `translation` between spaces that look at different texts: `encoder/language`."""
    found = data["experiments"].get("translation", {"records": []})["records"]
    return [one for one in found if _language(one["source"]) != _language(one["target"])]


def languages(spaces: Mapping[str, Record]) -> set[str]:
    """Views that text spaces look at, out of names like `encoder/language`."""
    texts = [space for space, about in spaces.items() if about["modality"] == "text"]
    return {_language(space) for space in texts if "/" in space}


def _language(space: str) -> str:
    return space.rpartition("/")[2] if "/" in space else ""
