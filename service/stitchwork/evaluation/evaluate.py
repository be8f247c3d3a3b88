"""`stitchwork evaluate`: the paper's experiments on data and encoders of one's own choice."""

import contextlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from rich.console import Console
from rich.progress import Progress

from stitchwork import __version__
from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError
from stitchwork.evaluation import progress_bar as bars_
from stitchwork.evaluation.corpus_embeddings import gather
from stitchwork.evaluation.corpus_sources import corpus
from stitchwork.evaluation.embedded_corpus import Embedded
from stitchwork.evaluation.experiments import modalities as modalities_
from stitchwork.evaluation.experiments.confidence import confidence
from stitchwork.evaluation.experiments.experiment_settings import Settings
from stitchwork.evaluation.experiments.inversion import inversion
from stitchwork.evaluation.experiments.layers import layers
from stitchwork.evaluation.experiments.methods import Peer
from stitchwork.evaluation.experiments.misaligned import misaligned
from stitchwork.evaluation.experiments.norms import norms
from stitchwork.evaluation.experiments.over_http import over_http
from stitchwork.evaluation.experiments.prediction import prediction
from stitchwork.evaluation.experiments.scale import scale
from stitchwork.evaluation.experiments.sensitivity import sensitivity
from stitchwork.evaluation.experiments.study import Record, Study, Told
from stitchwork.evaluation.experiments.translation import translation
from stitchwork.evaluation.experiments.whitening import whitening
from stitchwork.evaluation.known_encoders import defaults, model_roots
from stitchwork.evaluation.peers import PACKAGES, environment
from stitchwork.evaluation.peers import Peer as Program
from stitchwork.evaluation.report import report
from stitchwork.evaluation.result_cache import (
    CachedResult,
    cached_result,
    key_of,
    key_of_data,
    write_whole,
)
from stitchwork.supervisor import Plan, start

DEFAULT_DATA: Final = ("digits",)
SWAPS: Final = (100, 101, 102)
"""Seeds of the anchors that change places."""
EMBEDDED: Final = "embedded"
"""Folder of what was embedded, beside the results."""
PEERS: Final = "peers"
"""Folder of the environments of other programs."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What an evaluation is asked for.

    Attributes:
        data: As `sources.corpus` takes them.
        only: Experiments; all if none.
        out: Folder of results, report and plots.
        url: Of a running service; None starts one.
        encoders: As `embeddings.gather` takes them; none takes what suits the data.
        most: Rows of each part of a data set that stay; None keeps all.
        settings: What the experiments are asked to do.
        peers: Other programs, of `peers.PACKAGES`, which the main table is measured with too;
            each is installed in an environment of its own.
    """

    data: tuple[str, ...] = DEFAULT_DATA
    only: tuple[str, ...] = ()
    out: Path = Path("evaluation")
    url: str | None = None
    encoders: tuple[str, ...] = ()
    most: int | None = None
    settings: Settings = field(default_factory=Settings)
    peers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = set(self.only) - {*NAMES}
        if unknown:
            raise InvalidInputError(
                f"expected experiments of {', '.join(NAMES)}, got {', '.join(sorted(unknown))}"
            )
        foreign = set(self.peers) - {*PACKAGES}
        if foreign:
            raise InvalidInputError(
                f"expected peers of {', '.join(PACKAGES)}, got {', '.join(sorted(foreign))}"
            )

    def wants(self, name: str) -> bool:
        """Whether an experiment is asked for, or needed by one that is."""
        if name in self.only:
            return True
        if not self.only:
            return name not in EXPERIMENTS or not EXPERIMENTS[name].named
        return any(name in EXPERIMENTS[asked].after for asked in self.only if asked in EXPERIMENTS)


@dataclass(frozen=True, slots=True)
class Context:
    """What an experiment may use."""

    client: Stitchwork
    peers: Mapping[str, Peer]
    study: Study
    found: Mapping[str, Record]
    progress: Told


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment on a data set.

    Attributes:
        run: Does it.
        told: What it is, in a few words.
        labels: Whether it needs labels.
        after: Experiments whose results it reads.
        applies: Whether it says anything about this data set.
        named: Whether it is run only where it is asked for by name.
    """

    run: Callable[[Context], Record]
    told: str
    labels: bool = False
    after: tuple[str, ...] = ()
    applies: Callable[[Study], bool] = lambda study: True
    named: bool = False


EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    "norms": Experiment(lambda c: norms(c.study, progress=c.progress), "lengths of rows"),
    "inversion": Experiment(
        lambda c: inversion(c.study, progress=c.progress), "intra- and inter-space inversion"
    ),
    "sensitivity": Experiment(
        lambda c: sensitivity(c.study, progress=c.progress), "irp against δ and ω"
    ),
    "translation": Experiment(
        lambda c: translation(c.study, peers=c.peers, progress=c.progress),
        "stitching and retrieval",
    ),
    "modalities": Experiment(
        lambda c: modalities_.modalities(c.study, progress=c.progress),
        "across modalities, with controls",
        applies=modalities_.applies,
    ),
    "confidence": Experiment(
        lambda c: confidence(c.study, progress=c.progress), "confidence", labels=True
    ),
    "scale": Experiment(
        lambda c: scale(c.study, progress=c.progress), "nets under rescaled inputs", labels=True
    ),
    "prediction": Experiment(
        lambda c: prediction(c.found),
        "what predicts accuracy",
        labels=True,
        after=("sensitivity", "translation"),
    ),
    "whitening": Experiment(
        lambda c: whitening(c.study, progress=c.progress), "exp against b", named=True
    ),
    "misaligned": Experiment(
        lambda c: misaligned(c.study.embedded, SWAPS),
        "swapped anchors found",
        named=True,
    ),
    "service": Experiment(
        lambda c: over_http(c.client, c.study, progress=c.progress),
        "the same over HTTP",
        labels=True,
    ),
}
LAYERS: Final = "layers"
"""The one experiment that needs no data set."""
NAMES: Final = (*EXPERIMENTS, LAYERS)


def evaluate(ask: Ask) -> int:
    """Run what is asked for, and write results, plots and a report.

    Args:
        ask: What to run on what.

    Returns:
        0, also where parts were taken from an earlier run.

    Raises:
        StitchworkError: If the data or an encoder cannot be had.
    """
    # Only this command needs matplotlib, and it says so before all the work.
    from stitchwork.evaluation.plots import plots

    console = Console()
    ask.out.mkdir(parents=True, exist_ok=True)
    results: Record = {"conditions": _conditions(ask), "data": {}}
    with (
        _service(ask, console) as client,
        bars_.progress(console) as bars,
        contextlib.ExitStack() as stack,
    ):
        programs = {
            name: stack.enter_context(Program(name, environment(name, ask.out / PEERS))).relate
            for name in ask.peers
        }
        for source in ask.data:
            found = corpus(source, most=ask.most, seed=ask.settings.seed)
            encoders = ask.encoders or (() if found.rows else defaults(found))
            embedded = gather(client, found, encoders, ask.out / EMBEDDED, bars)
            told = _studied(ask, client, programs, embedded, bars)
            results["data"][embedded.name] = {"notes": list(found.notes), **told}
        if ask.wants(LAYERS):
            results[LAYERS] = _layers(ask, bars)
    write_whole(ask.out / "results.json", orjson.dumps(results, option=orjson.OPT_INDENT_2))
    pictures = plots(results, ask.out / "plots")
    text = report(results, {name: path.relative_to(ask.out) for name, path in pictures.items()})
    write_whole(ask.out / "report.md", text.encode())
    console.print(f"The report is in {ask.out / 'report.md'}, with {len(pictures)} plots.")
    return 0


def _studied(
    ask: Ask,
    client: Stitchwork,
    peers: Mapping[str, Peer],
    embedded: Embedded,
    bars: Progress,
) -> Record:
    """All that is asked about one data set."""
    study = Study(embedded, ask.settings)
    base = key_of_data(embedded, ask.settings)
    found: dict[str, CachedResult] = {}
    for name, experiment in EXPERIMENTS.items():
        if not ask.wants(name) or not experiment.applies(study):
            continue
        if experiment.labels and embedded.labels is None:
            continue
        task = bars.add_task(f"{embedded.name}: {experiment.told}", total=None)

        def told(done: int, total: int, task: Any = task) -> None:
            bars.update(task, completed=done, total=total)

        before = {other: found[other] for other in experiment.after}
        past = {other: one.result for other, one in before.items()}
        context = Context(client, peers, study, past, told)
        key = key_of(base, name, [one.key for one in before.values()], sorted(ask.peers))
        path = ask.out / embedded.name / f"{name}.json"
        found[name] = cached_result(path, key, partial(experiment.run, context))
        bars.update(task, completed=1, total=1)
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
        "seconds": {name: one.seconds for name, one in found.items()},
        "experiments": {name: one.result for name, one in found.items()},
    }


def _layers(ask: Ask, bars: Progress) -> Record:
    task = bars.add_task("MiniLM's layers under rescaling", total=None)

    def told(done: int, total: int) -> None:
        bars.update(task, completed=done, total=total)

    seed = ask.settings.seed
    found = cached_result(
        ask.out / f"{LAYERS}.json", key_of(seed), lambda: layers(seed, progress=told)
    )
    bars.update(task, completed=1, total=1)
    return found.result


@contextlib.contextmanager
def _service(ask: Ask, console: Console) -> Iterator[Stitchwork]:
    """The service that was named, or one that lives as long as the evaluation."""
    if ask.url:
        with Stitchwork(ask.url, timeout=600.0) as client:
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="stitchwork-evaluate-") as folder:
        plan = Plan(
            host="127.0.0.1",
            port=0,
            data_dir=Path(folder),
            workers=1,
            env={
                "STITCHWORK_MODEL_ROOTS": model_roots(ask.out / EMBEDDED),
                "STITCHWORK_LOG_LEVEL": "warning",
                "STITCHWORK_OFFLINE": "true",
                "STITCHWORK_REQUEST_TIMEOUT_SECONDS": "600",
            },
        )
        with start(plan) as running, Stitchwork(running.url, timeout=600.0) as client:
            console.print(f"Stitchwork serves at {running.url}, with its own servers and a worker.")
            yield client


def _conditions(ask: Ask) -> Record:
    return {
        "version": __version__,
        "settings": asdict(ask.settings),
        "data": list(ask.data),
        "encoders": list(ask.encoders),
        "peers": sorted(ask.peers),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
