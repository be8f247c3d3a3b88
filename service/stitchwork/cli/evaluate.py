"""`stitchwork evaluate`: the paper's experiments on the user's data."""

import logging
from pathlib import Path

import click

from stitchwork.bootstrap.shared import limit_blas
from stitchwork.cli.options import WordsOption
from stitchwork.cli.settings_options import SettingsCommand
from stitchwork.settings import Settings


@click.command(cls=SettingsCommand, settings={"blas_threads", "log_level"})
@click.argument("data", metavar="[DATA]...", nargs=-1)
@click.option("--only", cls=WordsOption, metavar="NAME...", help="Experiments [default: all].")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("evaluation"),
    metavar="PATH",
    help="Folder of the results [default: evaluation].",
)
@click.option("--url", metavar="URL", help="A running service [default: one is started].")
@click.option(
    "--encoders", cls=WordsOption, metavar="NAME...", help="Encoders [default: those of the data]."
)
@click.option("--peers", cls=WordsOption, metavar="NAME...", help="Other programs to compare with.")
@click.option(
    "--max-rows", type=int, metavar="COUNT", help="Rows of each part of a data set [default: all]."
)
@click.option(
    "--anchors",
    cls=WordsOption,
    type=int,
    default=(300, 1000, 1500, 3000),
    metavar="COUNT...",
    help="Numbers of anchors [default: 300 1000 1500 3000].",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    metavar="NUMBER",
    help="Seed of draws, splits and networks [default: 0].",
)
@click.option(
    "--draws", type=int, default=3, metavar="COUNT", help="Draws of anchors [default: 3]."
)
def evaluate(
    settings: Settings,
    data: tuple[str, ...],
    only: tuple[str, ...],
    out: Path,
    url: str | None,
    encoders: tuple[str, ...],
    peers: tuple[str, ...],
    max_rows: int | None,
    anchors: tuple[int, ...],
    seed: int,
    draws: int,
) -> int:
    """Run the paper's experiments on data and encoders of choice; write a report with plots.

    DATA is digits (the default), fashion-mnist, or a path: a folder of images by class, of train
    and test texts, of documents with judged queries or of the emoji packages, a CSV or JSONL file
    of texts, two parallel texts, or an .npz file of embeddings.
    """
    from stitchwork.evaluation import evaluate as evaluation
    from stitchwork.evaluation.experiments.experiment_settings import ExperimentSettings

    # One thread for a product, and two products at a time.
    limit_blas(settings.model_copy(update={"blas_threads": settings.blas_threads or 1}))
    logging.getLogger().setLevel(logging.WARNING)
    return evaluation.evaluate(
        evaluation.EvaluationOptions(
            data=data or evaluation.DEFAULT_DATA,
            only=only,
            out=out,
            url=url,
            encoders=encoders,
            max_rows=max_rows,
            settings=ExperimentSettings(seed=seed, draws=draws, counts=anchors),
            peers=peers,
        )
    )
