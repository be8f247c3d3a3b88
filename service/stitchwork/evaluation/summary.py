"""Numbers of the report from the records of experiments: means over pairs and draws."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from stitchwork.evaluation.experiments.methods import IRP_BEST, PROCRUSTES, RIDGE_BOTH
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.markdown import format_number
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

MIN_NOISE: Final = 0.005
"""Differences below this are ties, whatever their variation over draws."""


class Mean(NamedTuple):
    """A mean over pairs and draws, and the standard deviation over pairs."""

    mean: float
    std: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f}"


def select(records: Iterable[Record], **criteria: object) -> list[Record]:
    """The records with these values."""
    return [
        record
        for record in records
        if all(record[name] == value for name, value in criteria.items())
    ]


def values(records: Iterable[Record], name: str) -> list[float]:
    """The values of record measure."""
    return [float(record[name]) for record in records]


def mean_over_pairs(records: Sequence[Record], value: Callable[[Record], float]) -> Mean | None:
    """Mean and standard deviation over pairs of the pair's mean over draws; None of no records."""
    of_pair: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        of_pair[record["source"], record["target"]].append(value(record))
    if not of_pair:
        return None
    means = [float(np.mean(own)) for own in of_pair.values()]
    return Mean(float(np.mean(means)), float(np.std(means)))


def mean_of(records: Sequence[Record], name: str) -> Mean | None:
    """`mean_over_pairs` of record measure, over the records that have it."""
    return mean_over_pairs(
        [record for record in records if name in record], lambda record: float(record[name])
    )


def share_of_weaker(
    native: Mapping[str, Mapping[str, float]], kind: str
) -> Callable[[Record], float]:
    """A function from a record to its accuracy divided by the lower native accuracy of the pair."""

    def share(record: Record) -> float:
        lower = min(native[record["source"]][kind], native[record["target"]][kind])
        return float(record[kind]) / lower

    return share


class DefaultComparison(NamedTuple):
    """The default bridge against a baseline, on the same pairs and draws.

    Attributes:
        difference: Mean over pairs and draws, the default's value minus the baseline's.
        noise: Twice the standard error over draws, at least 0.005.
    """

    difference: float
    noise: float

    @property
    def verdict(self) -> str:
        """One of tie, above and below."""
        if abs(self.difference) <= self.noise:
            return "tie"
        return "above" if self.difference > 0 else "below"

    def __str__(self) -> str:
        return f"{self.difference:+.3f} ({self.verdict})"


def compare_with_default(
    records: Sequence[Record], baseline: str, measure: str
) -> DefaultComparison:
    """The default bridge against another method at record number of anchors.

    Args:
        records: Records of record number of anchors.
        baseline: The other method.
        measure: Name of the measure.
    """
    draws = sorted({record["draw"] for record in records})
    differences = []
    for number in draws:
        means = [
            np.mean(values(select(records, draw=number, method=method), measure))
            for method in (DEFAULT_BRIDGE, baseline)
        ]
        differences.append(float(means[0] - means[1]))
    error = 0.0
    if len(differences) > 1:
        error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return DefaultComparison(float(np.mean(differences)), max(MIN_NOISE, 2 * error))


def independent_draws(records: Iterable[Record], train: int) -> list[Record]:
    """Records of draws that differ.

    Args:
        records: Records of `translation` or of the choice for each pair.
        train: Number of training rows. Where all of them are anchors, draws differ only in their
            order, and the first one is left.
    """
    return [record for record in records if record["k"] < train or record["draw"] == 0]


BASELINES: Final = (
    ("linear", RIDGE_BOTH),
    ("mlp", RIDGE_BOTH),
    ("recall1", PROCRUSTES),
    ("linear", IRP_BEST),
)
"""Measures and methods that the default is compared with."""


def methods(records: Iterable[Record]) -> list[str]:
    """Methods in the order of the records."""
    return list(dict.fromkeys(record["method"] for record in records))


def format_native(native: Mapping[str, Mapping[str, float]], kind: str) -> str:
    """Mean and standard deviation over spaces of native accuracy."""
    accuracies = [of_space[kind] for of_space in native.values()]
    return f"{np.mean(accuracies):.3f} ± {np.std(accuracies):.3f}"


def format_mean(mean: Mean | None) -> str | None:
    """The mean alone, without its standard deviation."""
    return None if mean is None else format_number(mean.mean)


def method_label(name: str) -> str:
    """The name of a method in tables."""
    labels = {
        DEFAULT_BRIDGE: f"**{DEFAULT_BRIDGE}** (default)",
        RIDGE_BOTH: f"*{RIDGE_BOTH}*",
        PROCRUSTES: f"*{PROCRUSTES}*",
    }
    return labels.get(name, name)


def cross_language_records(data: Record) -> list[Record]:
    """Records of `translation` between spaces of different languages, named `encoder/language`."""
    records = data["experiments"].get("translation", {"records": []})["records"]
    return [r for r in records if _language(r["source"]) != _language(r["target"])]


def text_views(spaces: Mapping[str, Record]) -> set[str]:
    """Views of text spaces, from names like `encoder/language`."""
    texts = [space for space, about in spaces.items() if about["modality"] == "text"]
    return {_language(space) for space in texts if "/" in space}


def _language(space: str) -> str:
    return space.rpartition("/")[2] if "/" in space else ""
