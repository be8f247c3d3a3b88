"""Predictors of accuracy that need no labels, within a pair and across pairs."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from stitchwork.evaluation.experiments.measures import Z95, correlation
from stitchwork.evaluation.experiments.methods import ABSOLUTE
from stitchwork.evaluation.experiments.study import Record
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

PREDICTORS: Final = ("similarity", "centred")


def prediction(results: Mapping[str, Record]) -> Record:
    """Correlations with the accuracy of linear heads, from the results of other experiments.

    Args:
        results: Results of `translation` and `sensitivity`, of a data set with labels.

    Returns:
        `within` a pair, over `irp`'s δ and ω or over bridges and numbers of anchors: the mean r
        over pairs by Fisher's z, with an interval of that mean over pairs, and the r of each
        pair; `across` pairs at one method and number of anchors: r with Fisher's interval.
        The logarithm of condition numbers is used.
    """
    swept = results["sensitivity"]["records"]
    translated = [r for r in results["translation"]["records"] if r["method"] != ABSOLUTE]
    native = results["translation"]["native"]
    k = max(record["k"] for record in translated)
    fixed = [r for r in translated if r["k"] == k and r["method"] == DEFAULT_BRIDGE]
    default = [r for r in swept if r["delta"] == 0.8 and r["omega"] == 8]
    within = {f"{name}, over δ and ω": _within(swept, _of(name)) for name in PREDICTORS}
    within["log condition, over δ and ω"] = _within(swept, _condition)
    within |= {f"{name}, over bridges and k": _within(translated, _of(name)) for name in PREDICTORS}
    across = {
        f"{name}, {DEFAULT_BRIDGE}, k = {k}": _across(fixed, _of(name), native)
        for name in PREDICTORS
    }
    across |= {f"{name}, irp": _across(default, _of(name), native) for name in PREDICTORS}
    across["log condition, irp"] = _across(default, _condition, native)
    return {"within": within, "across": across}


Predictor = Callable[[Record], float]


def _of(name: str) -> Predictor:
    return lambda record: float(record[name])


def _condition(record: Record) -> float:
    return math.log(record["condition"])


def _within(records: Sequence[Record], predictor: Predictor) -> Record:
    """The mean of each pair's own r, so that differences between pairs do not enter."""
    of_pair: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        of_pair[record["source"], record["target"]].append(record)
    of_pairs = {
        f"{x} → {y}": correlation(*_points(own, predictor)).r for (x, y), own in of_pair.items()
    }
    defined = np.array([r for r in of_pairs.values() if r is not None])
    if not len(defined):
        return {"r": None, "low": None, "high": None, "pairs": of_pairs}
    z = np.arctanh(np.clip(defined, -0.999999, 0.999999))
    half = Z95 * float(np.std(z, ddof=1)) / math.sqrt(len(z)) if len(z) > 1 else math.inf
    mean = float(np.mean(z))
    low, high = math.tanh(mean - half), math.tanh(mean + half)
    return {"r": math.tanh(mean), "low": low, "high": high, "pairs": of_pairs}


def _across(
    records: Sequence[Record], predictor: Predictor, native: Mapping[str, Mapping[str, float]]
) -> Record:
    """Correlations over pairs with accuracy and with its share of the target's native accuracy."""
    x, y = _points(_averaged(records), predictor)
    share = [r["linear"] / native[r["target"]]["linear"] for r in _averaged(records)]
    return {
        "accuracy": correlation(x, y)._asdict(),
        "share of native": correlation(x, share)._asdict(),
    }


def _averaged(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One record for each pair, the mean over draws, which are not independent."""
    of_pair: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        of_pair[record["source"], record["target"]].append(record)
    return [
        {
            **own[0],
            **{
                name: float(np.mean([r[name] for r in own]))
                for name in ("similarity", "centred", "linear", "condition")
                if name in own[0]
            },
        }
        for own in of_pair.values()
    ]


def _points(records: Sequence[Record], predictor: Predictor) -> tuple[list[float], list[float]]:
    return [predictor(r) for r in records], [float(r["linear"]) for r in records]
