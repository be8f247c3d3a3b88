"""The experiments of an evaluation: what each runs, needs and applies to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from stitchwork.client import Stitchwork
from stitchwork.evaluation.experiments.choosing import choosing
from stitchwork.evaluation.experiments.confidence import confidence
from stitchwork.evaluation.experiments.inversion import inversion
from stitchwork.evaluation.experiments.methods import PeerFunction
from stitchwork.evaluation.experiments.misaligned import misaligned
from stitchwork.evaluation.experiments.modalities import applies as crosses_modalities
from stitchwork.evaluation.experiments.modalities import modalities
from stitchwork.evaluation.experiments.norms import norms
from stitchwork.evaluation.experiments.over_http import over_http
from stitchwork.evaluation.experiments.pair_choice import pair_choice
from stitchwork.evaluation.experiments.prediction import prediction
from stitchwork.evaluation.experiments.relevance import relevance
from stitchwork.evaluation.experiments.scale import scale
from stitchwork.evaluation.experiments.sensitivity import sensitivity
from stitchwork.evaluation.experiments.study import ProgressCallback, Record, Study
from stitchwork.evaluation.experiments.translation import translation
from stitchwork.evaluation.experiments.whitening import whitening

SWAP_SEEDS: Final = (100, 101, 102)
"""Seeds of the anchors that are swapped."""


@dataclass(frozen=True, slots=True)
class ExperimentContext:
    """What experiments have access to."""

    client: Stitchwork
    peers: Mapping[str, PeerFunction]
    study: Study
    results: Mapping[str, Record]
    progress: ProgressCallback


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment on a data set.

    Attributes:
        run: Runs it.
        title: What the progress bar shows.
        needs_labels: Whether it needs labels.
        requires: Experiments whose results it uses.
        applies: Whether it applies to this data set; by default to those without judgements,
            whose test rows are not like their training rows.
        opt_in: Whether it runs only where it is selected by name.
    """

    run: Callable[[ExperimentContext], Record]
    title: str
    needs_labels: bool = False
    requires: tuple[str, ...] = ()
    applies: Callable[[Study], bool] = lambda study: study.embedded.judgements is None
    opt_in: bool = False


EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    "norms": Experiment(lambda c: norms(c.study, progress=c.progress), "norms of rows"),
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
    "relevance": Experiment(
        lambda c: relevance(c.study, peers=c.peers, progress=c.progress),
        "moved stores of judged documents",
        applies=lambda study: study.embedded.judgements is not None,
    ),
    "modalities": Experiment(
        lambda c: modalities(c.study, progress=c.progress),
        "across modalities, with controls",
        applies=crosses_modalities,
    ),
    "confidence": Experiment(
        lambda c: confidence(c.study, progress=c.progress), "confidence", needs_labels=True
    ),
    "scale": Experiment(
        lambda c: scale(c.study, progress=c.progress),
        "networks under rescaled inputs",
        needs_labels=True,
    ),
    "prediction": Experiment(
        lambda c: prediction(c.results),
        "predictors of accuracy",
        needs_labels=True,
        requires=("sensitivity", "translation"),
    ),
    "whitening": Experiment(
        lambda c: whitening(c.study, progress=c.progress), "exp against b", opt_in=True
    ),
    "choosing": Experiment(
        lambda c: choosing(c.study, progress=c.progress), "which anchors are taken", opt_in=True
    ),
    "pair-choice": Experiment(
        lambda c: pair_choice(c.study, progress=c.progress),
        "a method for each pair",
        requires=("translation",),
        opt_in=True,
    ),
    "misaligned": Experiment(
        lambda c: misaligned(c.study.embedded, SWAP_SEEDS),
        "detection of swapped anchors",
        opt_in=True,
    ),
    "service": Experiment(
        lambda c: over_http(c.client, c.study, progress=c.progress),
        "agreement over HTTP",
        needs_labels=True,
    ),
}
LAYERS: Final = "layers"
"""The only experiment that needs no data set."""
EXPERIMENT_NAMES: Final = (*EXPERIMENTS, LAYERS)
