"""One data set as several encoders see it: what the experiments run on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.resources import Modality


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """One data set as several encoders see it: row i of every space is the same input.

    Attributes:
        name: The data set's.
        rows: By space: (n, d) float32.
        modality: By space: `image`, `text` or `vector`.
        labels: (n,) int64, indices into `classes`; None where the data set has none.
        classes: Their names.
        groups: (n,) int64, finer groups such as emoji subgroups, for controls; None where there
            are none.
        train: Indices that anchors and heads may come from.
        test: Indices held out.
        origin: By space: what made it, for the report.
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
