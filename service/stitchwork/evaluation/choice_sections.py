"""Section of the report on the choice of a method for each pair of spaces."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.evaluation.cells import half_width
from stitchwork.evaluation.experiments.pair_choice import CANDIDATES
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.markdown import format_number, table
from stitchwork.evaluation.summary import independent_draws, select
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

PURPOSES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "classify": ("centred", ("linear", "mlp")),
    "search": ("ms", ("recall1", "mq", "ms", "mqx")),
}
"""By purpose: the score on held-out anchors that chooses, and the measures on test rows."""

NOTE: Final = f"""\
Each pair uses the candidate with the best score on held-out anchors ({", ".join(CANDIDATES)}).
For rows that are classified the score is the mean cosine, for rows that are searched it is `ms`
among the anchors. The gain is the difference on the test rows from `{DEFAULT_BRIDGE}` for all
pairs, as a mean over pairs with Student's 95% interval over draws. *At best* is the gain of the
candidate that is best on the test rows themselves, an upper bound of any choice."""


def pair_choice(data: Record) -> str:
    """What a choice for each pair brings over the default everywhere."""
    translated = data["experiments"]["translation"]["records"]
    scores = independent_draws(data["experiments"]["pair-choice"]["records"], data["train"])
    rows: list[Sequence[Any]] = []
    for k in sorted({record["k"] for record in scores}):
        for purpose, (score, measures) in PURPOSES.items():
            chosen = choose(select(scores, k=k), score)
            counts = [sum(name == method for name in chosen.values()) for method in CANDIDATES]
            listed = ", ".join(
                f"{method} {count}"
                for method, count in zip(CANDIDATES, counts, strict=True)
                if count
            )
            for measure in measures:
                records = [r for r in select(translated, k=k) if measure in r]
                if records:
                    gains, at_best = choice_gains(records, chosen, measure)
                    rows.append([k, purpose, measure, listed, interval(gains), interval(at_best)])
    titles = ("k", "purpose", "measure", "chosen, over pairs and draws", "gain", "at best")
    return f"{NOTE}\n\n" + table(titles, rows)


Pair = tuple[int, str, str]
"""A draw, and the source and target of a pair."""
Choices = Mapping[Pair, str]
"""The method for each."""


def choose(scores: Sequence[Record], score: str) -> Choices:
    """The candidate with the best score for each draw and pair."""
    return {key: max(of, key=lambda name: of[name]) for key, of in _by_pair(scores, score).items()}


def choice_gains(
    records: Sequence[Record], chosen: Choices, measure: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gains over the default of the choice and of the best candidate: (draws,) each."""
    by_pair = _by_pair(records, measure)
    gains: dict[int, list[tuple[float, float]]] = {}
    for key, method in chosen.items():
        of = by_pair[key]
        best = max(of[name] for name in CANDIDATES)
        gains.setdefault(key[0], []).append(
            (of[method] - of[DEFAULT_BRIDGE], best - of[DEFAULT_BRIDGE])
        )
    means = np.array([np.mean(gains[draw], axis=0) for draw in sorted(gains)])
    return means[:, 0], means[:, 1]


def _by_pair(records: Sequence[Record], measure: str) -> dict[Pair, dict[str, float]]:
    """The values of a measure by draw and pair, then by method."""
    values: dict[Pair, dict[str, float]] = {}
    for record in records:
        pair = (record["draw"], record["source"], record["target"])
        values.setdefault(pair, {})[record["method"]] = record[measure]
    return values


def interval(differences: NDArray[np.float64]) -> str:
    """The mean of differences over draws, with half the width of its interval."""
    mean, half = float(differences.mean()), half_width(differences)
    return f"{mean:+.3f}" + ("" if half == float("inf") else f" ± {format_number(half)}")
