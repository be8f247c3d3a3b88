"""Cells of the report: the default bridge against the best of all other methods."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.markdown import format_number, table
from stitchwork.evaluation.summary import independent_draws, methods, select
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

CELL_MEASURES: Final = {
    "linear": "linear",
    "mlp": "MLP",
    "recall1": "recall@1",
    "mq": "mq",
    "ms": "ms",
    "mqx": "mqx",
    "store_share": "nDCG@10 share",
}
"""By name in records: the measure's name in tables."""
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Cell:
    """The default against its best rival: one data set, number of anchors and measure.

    Attributes:
        data: Name of the data set.
        k: Number of anchors.
        measure: A key of `CELL_MEASURES`.
        default: Mean over pairs and draws of the default.
        rival: The other method with the largest mean.
        best: That mean.
        difference: Mean of the default's value minus the rival's.
        half_width: Half the width of its interval over draws; infinite with a single draw.
    """

    data: str
    k: int
    measure: str
    default: float
    rival: str
    best: float
    difference: float
    half_width: float

    @property
    def verdict(self) -> str:
        """`above` or `below` where the interval does not contain 0, else `level`."""
        if abs(self.difference) <= self.half_width:
            return "level"
        return "above" if self.difference > 0 else "below"


def cells(results: Record) -> list[Cell]:
    """The cells of all data sets of a report."""
    return [
        cell
        for name, data in results["data"].items()
        for experiment in ("translation", "relevance")
        if experiment in data["experiments"]
        for cell in _data_cells(
            name, data["experiments"][experiment]["sizes"], _draws(experiment, data)
        )
    ]


def compare_with_best(records: Sequence[Record], measure: str) -> tuple[str, NDArray[Any]] | None:
    """The best other method, and the default's paired differences from it.

    Args:
        records: Records of one number of anchors.
        measure: A measure.

    Returns:
        The method with the largest mean over pairs and draws, of those measured in every draw, and
        (draws,) the mean over pairs of the default minus it. None where nothing is measured.
    """
    measured = [record for record in records if measure in record]
    by_method = {name: select(measured, method=name) for name in methods(measured)}
    default = by_method.pop(DEFAULT_BRIDGE, [])
    rivals = {name: of for name, of in by_method.items() if len(of) == len(default)}
    if not default or not rivals:
        return None
    rival = max(rivals, key=lambda name: _mean(rivals[name], measure))
    draws = sorted({record["draw"] for record in default})
    ours, theirs = (
        np.array([_mean(select(of, draw=draw), measure) for draw in draws])
        for of in (default, rivals[rival])
    )
    return rival, ours - theirs


def half_width(differences: NDArray[Any]) -> float:
    """Half the width of Student's 95% interval of a mean; infinite for one value."""
    n = len(differences)
    if n < 2:
        return float("inf")
    quantile = float(student_t.ppf((1 + CONFIDENCE) / 2, n - 1))
    return quantile * float(differences.std(ddof=1)) / float(np.sqrt(n))


def cells_section(results: Record) -> str:
    """All cells, and which of them are lost."""
    all_cells = cells(results)
    if not all_cells:
        return ""
    rows = [
        (
            cell.data,
            cell.k,
            CELL_MEASURES[cell.measure],
            format_number(cell.default),
            cell.rival,
            format_number(cell.best),
            format_difference(cell),
            cell.verdict,
        )
        for cell in all_cells
    ]
    titles = ("data", "k", "measure", DEFAULT_BRIDGE, "best other", "its value", "difference", "")
    return "\n\n".join((CELLS_NOTE, summarise(all_cells), table(titles, rows)))


CELLS_NOTE: Final = f"""\
Each row compares `{DEFAULT_BRIDGE}` with the best of all other methods, including those that are
tuned on the pair with both spaces. The best method is chosen by the reported values themselves,
which favours it. Differences are paired, with Student's 95% interval over draws of anchors; a
difference is *above* or *below* if its interval does not contain 0. Three measures are shares of
ten nearest rows. *mq*: translated queries in the old store find this share of what the old model's
queries find there. *ms*: the new model's queries in the translated store find this share of what
they find in a store that was embedded anew. *mqx*: translated queries in the old store find this
share of what the new model finds in a store that was embedded anew. Queries are never in the store,
which is searched by cosine about the origin."""


def summarise(all_cells: Sequence[Cell]) -> str:
    """How many cells are above, level and below, and the names of those below."""
    counts = {v: sum(cell.verdict == v for cell in all_cells) for v in ("above", "level", "below")}
    listed = "; ".join(
        f"{cell.data}, {cell.k:,} anchors, {CELL_MEASURES[cell.measure]}: "
        f"{format_difference(cell)} to {cell.rival}"
        for cell in all_cells
        if cell.verdict == "below"
    )
    return (
        f"Of {len(all_cells)} cells `{DEFAULT_BRIDGE}` is above the best other method in "
        f"{counts['above']}, level in {counts['level']} and below in {counts['below']}. "
        f"Below: {listed or 'none'}."
    )


def format_difference(cell: Cell) -> str:
    """A difference with its interval."""
    if cell.half_width == float("inf"):
        return f"{cell.difference:+.3f} (one draw)"
    return f"{cell.difference:+.3f} ± {cell.half_width:.3f}"


def _draws(experiment: str, data: Record) -> list[Record]:
    """The records of an experiment; documents that are searched are drawn too."""
    records: list[Record] = data["experiments"][experiment]["records"]
    return records if experiment == "relevance" else independent_draws(records, data["train"])


def _data_cells(name: str, sizes: Sequence[int], of_data: Sequence[Record]) -> Iterator[Cell]:
    for k in sizes:
        records = select(of_data, k=k)
        for measure in CELL_MEASURES:
            compared = compare_with_best(records, measure)
            if compared is None:
                continue
            rival, differences = compared
            yield Cell(
                name,
                k,
                measure,
                _mean(select(records, method=DEFAULT_BRIDGE), measure),
                rival,
                _mean(select(records, method=rival), measure),
                float(differences.mean()),
                half_width(differences),
            )


def _mean(records: Sequence[Record], measure: str) -> float:
    return float(np.mean([record[measure] for record in records]))
