"""A transformer's layers under rescaling, which needs no data set."""

from typing import Final

from stitchwork.evaluation.experiments.study import Record, Told, quietly
from stitchwork.evaluation.sentences import sentences

ALPHAS: Final = (0.1, 0.5, 1.0, 2.0, 10.0)
TEXTS: Final = 32


def layers(seed: int, *, progress: Told = quietly) -> Record:
    """MiniLM on made-up sentences, the input of one layer at a time times α.

    Args:
        seed: Of the sentences.
        progress: Told of each setting.

    Returns:
        `records` as `stitchwork.models.rescaling.rescaled_layers` gives them.
    """
    from stitchwork.models.rescaling import rescaled_layers

    records = rescaled_layers(sentences(TEXTS, seed), ALPHAS, progress)
    rounded = [{name: round(value, 6) for name, value in one.items()} for one in records]
    return {"model": "all-MiniLM-L6-v2", "texts": TEXTS, "records": rounded}
