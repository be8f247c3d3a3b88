"""The report of an evaluation in Markdown: conditions, tables and plots."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from stitchwork.evaluation import analysis_sections, choice_sections, translation_sections
from stitchwork.evaluation.cells import cells_section
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.markdown import format_number, table

METHOD_NOTE: Final = """\
Heads are fitted on a space's own training rows, never on translated ones. `absolute` leaves rows
unchanged, cut or padded with zeros where widths differ. `irp` is the paper's bridge with this
service's δ = 0.8 and ω = 8. For `irp, best δ ω` both are chosen for each pair and number of
anchors, on validation rows from the training part. No parameter of another bridge is chosen.
Methods marked `both` are estimated from both spaces together, which the bridges do not need, on the
same unit rows: ridge regression with a penalty for each pair by generalised cross-validation,
orthogonal Procrustes, and kernel ridge regression with width and penalty by generalised
cross-validation, with the write factor of `ridge` or of `exp`. Values are means over ordered pairs
± their standard deviation over pairs. The value of a pair is the mean over draws of anchors; if all
training rows are anchors, draws differ only in their order."""

Section = Callable[[Record], str]
SECTIONS: Final[Sequence[tuple[str, str, Section]]] = (
    ("translation", "Zero-shot stitching", translation_sections.stitching),
    ("translation", "Retrieval across spaces", translation_sections.retrieval),
    ("translation", "Moved stores", translation_sections.moves),
    ("relevance", "Moved stores of judged documents", translation_sections.relevance),
    ("translation", "Across languages", translation_sections.languages),
    ("modalities", "Across modalities", translation_sections.modalities),
    ("inversion", "Inversion", analysis_sections.inversion),
    ("sensitivity", "Sensitivity of irp to δ and ω", analysis_sections.sensitivity),
    ("whitening", "Sensitivity of exp to b", analysis_sections.whitening),
    ("choosing", "Choosing anchors", analysis_sections.choosing),
    ("pair-choice", "A method for each pair", choice_sections.pair_choice),
    ("misaligned", "Swapped anchors", analysis_sections.misaligned),
    ("prediction", "Predictors of accuracy", analysis_sections.prediction),
    ("confidence", "Confidence", analysis_sections.confidence),
    ("norms", "Norms of rows", analysis_sections.norms),
    ("scale", "Networks under rescaled inputs", analysis_sections.scale),
    ("service", "Agreement over HTTP", analysis_sections.service),
)
PLOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "Zero-shot stitching": ("methods", "anchors"),
    "Moved stores of judged documents": ("relevance",),
    "Inversion": ("inversion",),
    "Sensitivity of irp to δ and ω": ("sensitivity",),
    "Predictors of accuracy": ("prediction",),
    "Confidence": ("reliability",),
    "Norms of rows": ("norms",),
    "Networks under rescaled inputs": ("scale",),
    "Across modalities": ("modalities",),
}


def render_report(results: Record, plots: Mapping[str, Path]) -> str:
    """The whole report.

    Args:
        results: As `evaluate` collects them.
        plots: By `data/plot`, paths relative to the report.
    """
    parts = ["# Evaluation of Stitchwork", _conditions(results)]
    parts.append(_overview(results))
    if comparison := cells_section(results):
        parts += ["## The default bridge against the best other method", comparison]
        if (path := plots.get("cells")) is not None:
            parts.append(f"![All cells]({path.as_posix()})")
    for name, data in results["data"].items():
        parts += [f"## {name}", _dataset_summary(data)]
        for experiment, title, section in SECTIONS:
            if experiment not in data["experiments"]:
                continue
            text = section(data)
            if not text:
                continue
            parts += [f"### {name}: {title}", text]
            for plot in PLOTS.get(title, ()):
                if (path := plots.get(f"{name}/{plot}")) is not None:
                    parts.append(f"![{title}, {name}]({path.as_posix()})")
    if "layers" in results:
        parts += [
            "## A transformer's layers under rescaling",
            analysis_sections.layers(results["layers"]),
        ]
        if (path := plots.get("layers")) is not None:
            parts.append(f"![Layers under rescaling]({path.as_posix()})")
    return "\n\n".join(part for part in parts if part) + "\n"


def _conditions(results: Record) -> str:
    conditions = results["conditions"]
    settings = conditions["settings"]
    facts: list[Sequence[Any]] = [
        ("version", conditions["version"]),
        ("data", ", ".join(results["data"])),
        ("anchors", f"{_joined(settings['counts'])} where the training part allows, and all of it"),
        ("draws of anchors", settings["draws"]),
        ("seed", settings["seed"]),
        ("heads", f"linear and MLP, on at most {settings['max_head_rows']} training rows"),
        ("accuracy on", f"at most {settings['max_test_rows']} test rows"),
        ("items searched among", f"at most {settings['gallery_size']} test rows"),
        ("machine", conditions["machine"]),
        ("python, numpy", f"{conditions['python']}, {conditions['numpy']}"),
    ]
    if conditions["peers"]:
        facts.append(("other programs", ", ".join(conditions["peers"])))
    return table(("condition", "value"), facts) + "\n\n" + METHOD_NOTE


def _overview(results: Record) -> str:
    """The default bridge against the baselines, for every data set and number of anchors."""
    rows = [
        (name, *cells)
        for name, data in results["data"].items()
        if "translation" in data["experiments"]
        for cells in translation_sections.overview_rows(data)
    ]
    if not rows:
        return ""
    return (
        "## The default bridge by data set and number of anchors\n\n"
        + table(translation_sections.OVERVIEW_COLUMNS, rows)
        + (
            "\n\nDifferences are the default's value minus the baseline's, on the same pairs and "
            "draws; a tie is a difference within twice its standard error over draws, or within "
            "0.005. Share is the mean over pairs of stitched accuracy divided by the lower of the "
            "two native accuracies."
        )
    )


def _dataset_summary(data: Record) -> str:
    rows = [
        (space, about["modality"], about["width"], about["origin"])
        for space, about in data["spaces"].items()
    ]
    classes = f", {data['classes']} classes" if data["classes"] else ", no labels"
    seconds = float(np.sum(list(data["seconds"].values())))
    split = f"{data['train']} training rows, {data['test']} test rows{classes}."
    duration = f"Experiments took {format_number(seconds, 0)} s."
    summary = " ".join([split, duration, *data["notes"]])
    return f"{summary}\n\n" + table(("space", "modality", "width", "origin"), rows)


def _joined(counts: Sequence[int]) -> str:
    return ", ".join(f"{count:,}" for count in counts)
