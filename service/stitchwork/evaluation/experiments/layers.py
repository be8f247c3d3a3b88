"""A transformer's layers under rescaling, which needs no data set."""

from typing import Final

from stitchwork.evaluation.experiments.study import ProgressCallback, Record, ignore_progress
from stitchwork.evaluation.sentences import sentences

ALPHAS: Final = (0.1, 0.5, 1.0, 2.0, 10.0)
TEXTS: Final = 32


def layers(seed: int, *, progress: ProgressCallback = ignore_progress) -> Record:
    """MiniLM on generated sentences, with the input of one layer at a time multiplied by α.

    Args:
        seed: Seed of the sentences.
        progress: Called for each setting.

    Returns:
        `records` as from `stitchwork.models.rescaling.rescaled_layers`.
    """
    from stitchwork.models.rescaling import rescaled_layers

    records = rescaled_layers(sentences(TEXTS, seed), ALPHAS, progress)
    rounded = [{name: round(value, 6) for name, value in record.items()} for record in records]
    return {"model": "all-MiniLM-L6-v2", "texts": TEXTS, "records": rounded}
