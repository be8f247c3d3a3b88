"""A data set embedded by several encoders: what the experiments run on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.resources import Modality


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedCorpus:
    """A data set embedded by several encoders: row i of every space is the same input.

    Attributes:
        name: Name of the data set.
        rows: By space: (n, d) float32.
        modality: By space: `image`, `text` or `vector`.
        labels: (n,) int64, indices into `classes`; None where the data set has none.
        classes: Names of the classes.
        groups: (n,) int64, finer groups such as emoji subgroups, for controls; None where there
            are none.
        train: Indices that anchors and heads may use.
        test: Indices held out.
        origin: By space: what computed it, for the report.
        judgements: (len(test), len(train)) float32 gains of documents, which are the training rows,
            for queries, which are the test rows; None where the data set has none.
    """

    name: str
    rows: Mapping[str, Floats]
    modality: Mapping[str, Modality]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    origin: Mapping[str, str]
    judgements: Floats | None = None
