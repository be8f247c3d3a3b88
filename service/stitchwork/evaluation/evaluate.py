"""`stitchwork evaluate`: the paper's experiments on the user's data and encoders."""

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import orjson
from rich.console import Console
from rich.progress import Progress, TaskID

from stitchwork import __version__
from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.corpus_embeddings import embed_corpus
from stitchwork.evaluation.corpus_sources import load_corpus
from stitchwork.evaluation.embedded_corpus import EmbeddedCorpus
from stitchwork.evaluation.experiment_catalog import (
    EXPERIMENT_NAMES,
    EXPERIMENTS,
    LAYERS,
    ExperimentContext,
)
from stitchwork.evaluation.experiments.experiment_settings import ExperimentSettings
from stitchwork.evaluation.experiments.layers import layers
from stitchwork.evaluation.experiments.methods import PeerFunction
from stitchwork.evaluation.experiments.study import Record, Study
from stitchwork.evaluation.known_encoders import check_encoder, default_encoders, model_roots
from stitchwork.evaluation.peers import PEERS, PeerProcess, peer_environment
from stitchwork.evaluation.progress_bar import progress
from stitchwork.evaluation.report import render_report
from stitchwork.evaluation.result_cache import (
    CachedResult,
    cached_result,
    data_key,
    result_key,
    write_atomically,
)
from stitchwork.supervisor import Plan, start

DEFAULT_DATA: Final = ("digits",)
EMBEDDINGS_FOLDER: Final = "embedded"
"""Folder of weights and embeddings, in the folder of results."""
PEERS_FOLDER: Final = "peers"
"""Folder of the virtual environments of other programs."""


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """Options of an evaluation.

    Attributes:
        data: Data sets, as `corpus_sources.load_corpus` takes them.
        only: Names of experiments; all if empty.
        out: Folder of results, report and plots.
        url: URL of a running service; None starts one.
        encoders: As `corpus_embeddings.embed_corpus` takes them; those that suit the data if empty.
        max_rows: Maximum number of rows of each part of a data set; None for all.
        settings: Settings of the experiments.
        peers: Other programs, of `peers.PEERS`, to include in the main table; packages are
            installed in virtual environments of their own.

    Raises:
        InvalidInputError: If there is no such experiment or peer.
    """

    data: tuple[str, ...] = DEFAULT_DATA
    only: tuple[str, ...] = ()
    out: Path = Path("evaluation")
    url: str | None = None
    encoders: tuple[str, ...] = ()
    max_rows: int | None = None
    settings: ExperimentSettings = field(default_factory=ExperimentSettings)
    peers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_rows is not None and self.max_rows < 1:
            raise InvalidInputError(f"expected --max-rows of 1 or more, got {self.max_rows}")
        unknown = set(self.only) - {*EXPERIMENT_NAMES}
        if unknown:
            raise InvalidInputError(
                f"expected experiments of {', '.join(EXPERIMENT_NAMES)}, got "
                f"{', '.join(sorted(unknown))}"
            )
        unknown = set(self.peers) - {*PEERS}
        if unknown:
            raise InvalidInputError(
                f"expected peers of {', '.join(PEERS)}, got {', '.join(sorted(unknown))}"
            )

    def includes(self, name: str) -> bool:
        """Whether an experiment is selected, or required by one that is."""
        if name in self.only:
            return True
        if not self.only:
            return name not in EXPERIMENTS or not EXPERIMENTS[name].opt_in
        return any(
            name in EXPERIMENTS[selected].requires
            for selected in self.only
            if selected in EXPERIMENTS
        )


def evaluate(options: EvaluationOptions) -> int:
    """Run the selected experiments, and write results, plots and a report.

    Args:
        options: What to run on what.

    Returns:
        0, also where results of an earlier run were reused.

    Raises:
        StitchworkError: If data or an encoder is not available.
    """
    # Imported first, so that a missing matplotlib is reported before the experiments run.
    from stitchwork.evaluation.plots import plots

    # A service takes seconds to start, and a mistyped name is known before.
    seed = options.settings.seed
    corpora = [load_corpus(source, max_rows=options.max_rows, seed=seed) for source in options.data]
    for corpus in corpora:
        for encoder in () if options.url else options.encoders:
            check_encoder(corpus, encoder)
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    results: Record = {"conditions": _conditions(options), "data": {}}
    with (
        _connect(options, console) as client,
        progress(console) as bars,
        contextlib.ExitStack() as stack,
    ):
        peers: dict[str, PeerFunction] = {}
        for name in options.peers:
            python = peer_environment(name, options.out / PEERS_FOLDER)
            peers[name] = stack.enter_context(PeerProcess(name, python)).relate
        for corpus in corpora:
            encoders = options.encoders or (() if corpus.rows else default_encoders(corpus))
            folder = options.out / EMBEDDINGS_FOLDER
            embedded = embed_corpus(client, corpus, encoders, folder, bars)
            data = _run_experiments(options, client, peers, embedded, bars)
            results["data"][embedded.name] = {"notes": list(corpus.notes), **data}
        if options.includes(LAYERS):
            results[LAYERS] = _run_layers(options, bars)
    content = orjson.dumps(results, option=orjson.OPT_INDENT_2)
    write_atomically(options.out / "results.json", content)
    paths = plots(results, options.out / "plots")
    relative = {name: path.relative_to(options.out) for name, path in paths.items()}
    report_path = options.out / "report.md"
    write_atomically(report_path, render_report(results, relative).encode())
    console.print(f"The report is in {report_path}, with {len(paths)} plots.")
    return 0


def _run_experiments(
    options: EvaluationOptions,
    client: Stitchwork,
    peers: Mapping[str, PeerFunction],
    embedded: EmbeddedCorpus,
    bars: Progress,
) -> Record:
    """The results of one data set."""
    study = Study(embedded, options.settings)
    base_key = data_key(embedded, options.settings)
    results: dict[str, CachedResult] = {}
    for name, experiment in EXPERIMENTS.items():
        if not options.includes(name) or not experiment.applies(study):
            continue
        if experiment.needs_labels and embedded.labels is None:
            continue
        bar = bars.add_task(f"{embedded.name}: {experiment.title}", total=None)

        def update(done: int, total: int, bar: TaskID = bar) -> None:
            bars.update(bar, completed=done, total=total)

        required = {other: results[other] for other in experiment.requires}
        context = ExperimentContext(
            client,
            peers,
            study,
            {other: cached.result for other, cached in required.items()},
            update,
        )
        keys = [cached.key for cached in required.values()]
        key = result_key(base_key, name, keys, sorted(options.peers))
        path = options.out / embedded.name / f"{name}.json"
        results[name] = cached_result(path, key, partial(experiment.run, context))
        bars.update(bar, completed=1, total=1)
    return {
        "rows": len(embedded.train) + len(embedded.test),
        "train": len(embedded.train),
        "test": len(embedded.test),
        "classes": len(embedded.classes),
        "spaces": {
            space: {
                "width": int(rows.shape[1]),
                "modality": embedded.modality[space],
                "origin": embedded.origin[space],
            }
            for space, rows in embedded.rows.items()
        },
        "seconds": {name: cached.seconds for name, cached in results.items()},
        "experiments": {name: cached.result for name, cached in results.items()},
    }


def _run_layers(options: EvaluationOptions, bars: Progress) -> Record:
    bar = bars.add_task("MiniLM's layers under rescaling", total=None)

    def update(done: int, total: int) -> None:
        bars.update(bar, completed=done, total=total)

    seed = options.settings.seed
    path = options.out / f"{LAYERS}.json"
    cached = cached_result(path, result_key(seed), lambda: layers(seed, progress=update))
    bars.update(bar, completed=1, total=1)
    return cached.result


@contextlib.contextmanager
def _connect(options: EvaluationOptions, console: Console) -> Iterator[Stitchwork]:
    """A client of the service at the URL, or of one that runs as long as the context."""
    if options.url:
        with Stitchwork(options.url, timeout=600.0) as client:
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="stitchwork-evaluate-") as folder:
        plan = Plan(
            host="127.0.0.1",
            port=0,
            data_dir=Path(folder),
            workers=1,
            env={
                "STITCHWORK_MODEL_ROOTS": model_roots(options.out / EMBEDDINGS_FOLDER),
                "STITCHWORK_LOG_LEVEL": "warning",
                "STITCHWORK_OFFLINE": "true",
                "STITCHWORK_REQUEST_TIMEOUT_SECONDS": "600",
            },
        )
        with start(plan) as running, Stitchwork(running.url, timeout=600.0) as client:
            console.print(f"Stitchwork serves at {running.url}, with its own servers and a worker.")
            yield client


def _conditions(options: EvaluationOptions) -> Record:
    return {
        "version": __version__,
        "settings": asdict(options.settings),
        "data": list(options.data),
        "encoders": list(options.encoders),
        "peers": sorted(options.peers),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
