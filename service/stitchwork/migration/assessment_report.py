"""The report on a store: one HTML file with its figures, plots and advice."""

import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from stitchwork.migration.advice import Advice, StoreFacts, duration
from stitchwork.migration.assessment import Assessment
from stitchwork.migration.part_files import replacement

# Okabe and Ito, Color Universal Design, 2008.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREY: Final = "#8C8C8C"
STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{text-align:left;padding:.2em 1em .2em 0;"
    "border-bottom:1px solid #ddd}svg{max-width:100%;height:auto}"
)


def write_report(
    path: Path,
    fields: dict[str, Any],
    assessment: Assessment | None,
    advice: Advice | None,
    facts: StoreFacts,
) -> None:
    """Write the report.

    Args:
        path: The file, which is replaced as a whole.
        fields: Names and values for its first table.
        assessment: The assessment; None for a store without texts, or of fewer than 100 rows.
        advice: The advice; None for a store without texts.
        facts: What else is known of the store.
    """
    title = f"Moving {fields['store']} from {facts.source} to {facts.target}"
    parts = [f"<h1>{escape(title)}</h1>"]
    if advice is not None:
        parts += [f"<p>{escape(reason)}</p>" for reason in advice.reasons]
    if assessment is not None:
        parts += ["<h2>Recall@10 at the size of the store</h2>", _ways(assessment, facts)]
        parts += [_svg(_recall_figure(assessment)), _svg(_similarity_figure(assessment))]
        if assessment.curve:
            parts += ["<h2>Anchors from the store</h2>", _curve(assessment)]
            parts.append(_svg(_curve_figure(assessment, facts)))
    parts += ["<h2>Figures</h2>", _table(("", ""), fields.items())]
    document = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )
    with replacement(path) as file:
        file.write(document.encode())


def _ways(assessment: Assessment, facts: StoreFacts) -> str:
    rows = []
    moved = "the store that was written" if facts.is_moved else "the store translated"
    ways = (
        ("new model's queries translated into the old store", assessment.queries, "nothing"),
        (moved, assessment.store, duration(facts.rows / facts.translate_rate)),
    )
    for name, prediction, cost in ways:
        interval = f"{prediction.low:.3f} to {prediction.high:.3f}"
        own = f"{prediction.sample_recall:.3f}"
        rows.append((name, f"{prediction.recall:.3f}", interval, own, cost))
    anew = duration(facts.rows / facts.embed_rate)
    rows.append(("everything embedded anew", "1", "by definition", "1", anew))
    size = assessment.store.rows
    titles = ("", "recall@10", "95% interval", f"among {size:,} rows", "takes about")
    return _table(titles, rows)


def _curve(assessment: Assessment) -> str:
    rows = [
        (f"{point.anchors:,}", f"{point.queries:.3f}", f"{point.store:.3f}")
        for point in assessment.curve
    ]
    return _table(("anchors", "translated queries", "translated store"), rows)


def _table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _recall_figure(assessment: Assessment) -> Figure:
    figure, axis = _new_figure()
    predictions = (assessment.queries, assessment.store)
    for position, (prediction, colour) in enumerate(zip(predictions, (ORANGE, BLUE), strict=True)):
        error = [[prediction.recall - prediction.low], [prediction.high - prediction.recall]]
        axis.barh(position, prediction.recall, xerr=error, color=colour, capsize=3)
    axis.barh(2, 1.0, color=GREY)
    axis.set_yticks([0, 1, 2], ["queries translated", "store translated", "embedded anew"])
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"recall@10 among {assessment.store.size:,} rows, with its 95% interval")
    return figure


def _similarity_figure(assessment: Assessment) -> Figure:
    figure, axis = _new_figure()
    axis.hist(assessment.similarities, bins=40, range=(-0.5, 1.0), color=BLUE)
    axis.set_xlabel("cosine of a translated row and the embedding of its text, about their mean")
    axis.set_ylabel("rows of the sample")
    return figure


def _curve_figure(assessment: Assessment, facts: StoreFacts) -> Figure:
    figure, axis = _new_figure()
    counts = [point.anchors for point in assessment.curve]
    stores = [point.store for point in assessment.curve]
    queries = [point.queries for point in assessment.curve]
    axis.plot(counts, stores, "o-", color=BLUE, label="store translated")
    axis.plot(counts, queries, "s-", color=ORANGE, label="queries translated")
    for prediction, colour in ((assessment.store, BLUE), (assessment.queries, ORANGE)):
        axis.plot([facts.anchors], [prediction.recall], "*", color=colour, markersize=12)
    axis.set_xscale("log")
    axis.set_ylim(0, 1)
    axis.set_xlabel("anchors from the store; stars: the present anchors")
    axis.set_ylabel("recall@10")
    axis.legend(frameon=False)
    return figure


def _new_figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _svg(figure: Figure) -> str:
    """A figure as an element of HTML."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
