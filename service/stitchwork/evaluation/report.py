"""The report of an evaluation, as Markdown: conditions, tables, and the plots beside them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from stitchwork.evaluation import report_sections
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.markdown import number, table

TOLD: Final = """\
Accuracy is that of heads fitted on a space's own training rows and never on a translated one.
`absolute` leaves rows as they are, cut or filled with zeros where widths differ. `irp` is the
paper's bridge at this service's δ = 0.8 and ω = 8; `irp, best δ ω` takes both, for each pair and
number of anchors, from validation rows out of the training part; the other bridges have nothing
chosen. Rows marked `both` are estimated with both spaces at hand, which the bridges never need,
on the same unit rows: ridge regression with its penalty by generalised cross-validation, pair by
pair, and orthogonal Procrustes. Values are means over ordered pairs ± their spread over pairs,
each pair's own being the mean over draws of anchors; where all training rows are anchors, draws
differ in nothing but the order."""

Section = Callable[[Record], str]
SECTIONS: Final[Sequence[tuple[str, str, Section]]] = (
    ("translation", "Zero-shot stitching", report_sections.stitching),
    ("translation", "Retrieval across spaces", report_sections.retrieval),
    ("translation", "Across languages", report_sections.languages),
    ("modalities", "Across modalities", report_sections.modalities),
    ("inversion", "Inversion", report_sections.inversion),
    ("sensitivity", "Sensitivity of irp to δ and ω", report_sections.sensitivity),
    ("whitening", "Sensitivity of exp to b", report_sections.whitening),
    ("misaligned", "Swapped anchors", report_sections.misaligned),
    ("prediction", "What predicts accuracy", report_sections.prediction),
    ("confidence", "Confidence", report_sections.confidence),
    ("norms", "Lengths of rows", report_sections.norms),
    ("scale", "Nets under rescaled inputs", report_sections.scale),
    ("service", "The same over HTTP", report_sections.service),
)
PLOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "Zero-shot stitching": ("methods", "anchors"),
    "Inversion": ("inversion",),
    "Sensitivity of irp to δ and ω": ("sensitivity",),
    "What predicts accuracy": ("prediction",),
    "Confidence": ("reliability",),
    "Lengths of rows": ("norms",),
    "Nets under rescaled inputs": ("scale",),
    "Across modalities": ("modalities",),
}


def report(results: Record, plots: Mapping[str, Path]) -> str:
    """The whole report.

    Args:
        results: As `evaluate` gathers them.
        plots: By `data/plot`, where the picture lies from the report.
    """
    parts = ["# Evaluation of Stitchwork", _conditions(results)]
    parts += [_overview(results)]
    for name, data in results["data"].items():
        parts += [f"## {name}", _about(data)]
        for experiment, title, section in SECTIONS:
            if experiment not in data["experiments"]:
                continue
            told = section(data)
            if not told:
                continue
            parts += [f"### {name}: {title}", told]
            for plot in PLOTS.get(title, ()):
                if (path := plots.get(f"{name}/{plot}")) is not None:
                    parts.append(f"![{title}, {name}]({path.as_posix()})")
    if "layers" in results:
        parts += [
            "## A transformer's layers under rescaling",
            report_sections.layers(results["layers"]),
        ]
        if (path := plots.get("layers")) is not None:
            parts.append(f"![Layers under rescaling]({path.as_posix()})")
    return "\n\n".join(part for part in parts if part) + "\n"


def _conditions(results: Record) -> str:
    told = results["conditions"]
    settings = told["settings"]
    facts: list[Sequence[Any]] = [
        ("version", told["version"]),
        ("data", ", ".join(results["data"])),
        ("anchors", f"{_listed(settings['counts'])} where the training part allows, and its all"),
        ("draws of anchors", settings["draws"]),
        ("seed", settings["seed"]),
        ("heads", f"linear and MLP, on at most {settings['head_rows']} training rows"),
        ("accuracy on", f"at most {settings['test_rows']} rows held out"),
        ("items searched among", f"at most {settings['gallery']} rows held out"),
        ("machine", told["machine"]),
        ("python, numpy", f"{told['python']}, {told['numpy']}"),
    ]
    if told["peers"]:
        facts.append(("other programs", ", ".join(told["peers"])))
    return table(("condition", "value"), facts) + "\n\n" + TOLD


def _overview(results: Record) -> str:
    """The default against what it is to beat, for every data set and number of anchors."""
    rows = [
        (name, *cells)
        for name, data in results["data"].items()
        if "translation" in data["experiments"]
        for cells in report_sections.cells(data)
    ]
    if not rows:
        return ""
    return (
        "## The default bridge in every cell\n\n"
        + table(report_sections.CELLS, rows)
        + (
            "\n\nDifferences are the default's minus the other's, on the same pairs and draws; a "
            "tie is one within twice its standard error over draws, or within 0.005. Share is the "
            "mean over pairs of stitched accuracy over the weaker of the two native ones."
        )
    )


def _about(data: Record) -> str:
    rows = [
        (space, about["modality"], about["width"], about["origin"])
        for space, about in data["spaces"].items()
    ]
    classes = f", {data['classes']} classes" if data["classes"] else ", no labels"
    spent = float(np.sum(list(data["seconds"].values())))
    head = f"{data['train']} rows to learn from, {data['test']} held out{classes}."
    told = " ".join([head, f"Experiments took {number(spent, 0)} s.", *data["notes"]])
    return f"{told}\n\n" + table(("space", "modality", "width", "made by"), rows)


def _listed(counts: Sequence[int]) -> str:
    return ", ".join(f"{count:,}" for count in counts)
