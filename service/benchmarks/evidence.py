"""`python -m benchmarks.evidence`: the evaluation that `docs/evidence.md` shows, and that page."""

import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import orjson

from benchmarks.paper import paper_section
from stitchwork.bootstrap.shared import limit_blas
from stitchwork.cli.main import run as run_command
from stitchwork.evaluation.evaluate import EvaluationOptions, evaluate
from stitchwork.evaluation.experiments.experiment_settings import ExperimentSettings
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.report import render_report
from stitchwork.settings import Settings

EXPERIMENTS: Final = ("translation", "relevance", "pair-choice")
PEERS: Final = (
    "rat-embed",
    "isotrieve-ridge",
    "drift-adapter-procrustes",
    "drift-adapter-affine",
    "drift-adapter-mlp",
    "uncentred-procrustes",
)
SETTINGS: Final = ExperimentSettings(
    draws=3, counts=(100, 300, 1000), small_counts=(), max_test_rows=2000
)
MAX_ROWS: Final = 2500


class Run(NamedTuple):
    """Data sets that are evaluated with the same encoders.

    Attributes:
        data: Their names, or paths in the folder of data.
        encoders: Names of encoders; those that suit the data if empty.
        is_text: Whether they are texts, which lie in the folder of data and which other programs
            translate too.
    """

    data: tuple[str, ...]
    encoders: tuple[str, ...] = ()
    is_text: bool = True


RUNS: Final = {
    "texts": Run(("banking77", "20news", "cranfield")),
    "languages": Run(("tatoeba/fra-eng",), ("minilm/eng", "use/fra", "e5/fra")),
    "family": Run(("tatoeba/spa-eng",), ("minilm/eng", "minilm-sre/eng")),
    "images": Run(("digits", "fashion-mnist"), ("lite0", "lite2", "small-resnet"), is_text=False),
}
"""By folder of results."""
DATA: Final = tuple(Path(name).name for run in RUNS.values() for name in run.data)
PLOTS: Final = ("anchors", "relevance")
"""Plots of each data set that the page shows, besides that of all cells."""
PAGE: Final = "evidence.md"


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("evaluation"),
    show_default=True,
    help="Folder of embeddings and results, which are used again.",
)
@click.option(
    "--docs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("docs"),
    show_default=True,
    help="Folder of the page.",
)
@click.option(
    "--only",
    type=click.Choice(DATA),
    multiple=True,
    help="A data set; may be repeated [default: all].",
)
@click.option(
    "--peer",
    "peers",
    type=click.Choice(PEERS),
    multiple=True,
    help="Another program to run on texts; may be repeated [default: all].",
)
def main(data: Path, work: Path, docs: Path, only: tuple[str, ...], peers: tuple[str, ...]) -> int:
    """Evaluate on the data sets in the folder DATA, and on images; write the page."""
    limit_blas(Settings().model_copy(update={"blas_threads": 1}))
    logging.getLogger().setLevel(logging.WARNING)
    folders = []
    for folder, run in RUNS.items():
        names = [name for name in run.data if not only or Path(name).name in only]
        if not names:
            continue
        options = EvaluationOptions(
            data=tuple(str(data / name) if run.is_text else name for name in names),
            only=EXPERIMENTS,
            out=work / folder,
            encoders=run.encoders,
            max_rows=MAX_ROWS,
            settings=SETTINGS,
            peers=(peers or PEERS) if run.is_text else (),
        )
        evaluate(options)
        folders.append(options.out)
    words = [f"--only {name}" for name in only] + [f"--peer {name}" for name in peers]
    write_page(folders, docs, " ".join(["python -m benchmarks.evidence DATA", *words]))
    return 0


def write_page(folders: Sequence[Path], docs: Path, command: str) -> None:
    """Write the page and its plots from the results in some folders."""
    results = merge([orjson.loads((folder / "results.json").read_bytes()) for folder in folders])
    images = docs / "images"
    images.mkdir(exist_ok=True)
    plots: dict[str, Path] = {}
    from stitchwork.evaluation.plots import plots as draw

    for name, path in draw(results, images / "temporary").items():
        if name.rpartition("/")[2] in (*PLOTS, "cells"):
            target = images / f"evidence-{path.name}"
            shutil.move(path, target)
            plots[name] = target.relative_to(docs)
    shutil.rmtree(images / "temporary")
    head = (
        "# Evidence\n\n"
        f"Written by `{command}` on {time.strftime('%Y-%m-%d')}; every number is from its runs. "
        "[Evaluation](evaluation.md) explains the command and shows a longer run "
        "with more anchors."
    )
    report = render_report(results, plots).partition("\n\n")[2]
    page = "\n\n".join((head, report.rstrip("\n"), paper_section(results))) + "\n"
    (docs / PAGE).write_text(page)


def merge(parts: list[Record]) -> Record:
    """The results of several evaluations as one."""
    conditions: dict[str, Any] = dict(parts[0]["conditions"])
    for name in ("data", "encoders", "peers"):
        values = (value for part in parts for value in part["conditions"][name])
        conditions[name] = list(dict.fromkeys(values))
    data = {name: of for part in parts for name, of in part["data"].items()}
    return {"conditions": conditions, "data": data}


if __name__ == "__main__":
    sys.exit(run_command(main, "python -m benchmarks.evidence"))
