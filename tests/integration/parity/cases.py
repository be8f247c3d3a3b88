"""The parts of a parity case: what a library saves, and what it computes from the saved files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from PIL import Image

from stitchwork.resources import Floats
from tests.support.images import file

TEXTS: Final = (
    "A b",
    "a much Longer text, which is padded far less than the others",
    "two words",
    "Which of the two accounts was charged twice?",
)
"""The texts of cases that have none of their own."""


def pattern(width: int, height: int, kind: int) -> bytes:
    """A PNG file of waves with a little noise; kinds differ in colour and direction."""
    y, x = np.indices((height, width)) / max(width, height)
    waves = (np.sin(6 * (kind + 1) * x + kind), np.cos(9 * (kind + 0.5) * y), np.sin(20 * (x + y)))
    pixels = (np.stack(waves, axis=-1) / 2 + 0.5) * np.roll([1, 0.5, 0.1], kind)
    pixels += 0.1 * np.random.default_rng(kind).random((height, width, 3))
    return file(Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8)))


IMAGES: Final = (pattern(64, 48, 0), pattern(50, 120, 1), pattern(90, 90, 2))
"""The images of cases that have none of their own, as PNG files."""
TEXT_ANCHORS: Final = (
    "the train was late",
    "no",
    "a cup of tea, with milk and without sugar",
    "How do I reset my card?",
    "rain fell on the roofs of the town all through the night",
    "seven",
)
IMAGE_ANCHORS: Final = tuple(
    pattern(*sides, kind + 3) for kind, sides in enumerate(((40, 30), (70, 20), (33, 90), (64, 64)))
)


@dataclass(frozen=True)
class HeadReference:
    """What a library predicts for the items of a case.

    Attributes:
        labels: The label of each item.
        probabilities: (n, c) probabilities, in the order of `classes`.
        classes: The labels of the classes.
        body: Fields of PUT /heads beside the space.
    """

    labels: list[Any]
    probabilities: Floats
    classes: list[Any]
    body: Mapping[str, Any] = field(default_factory=lambda: {"classifier": True})


@dataclass(frozen=True)
class Reference:
    """What a library computes from the files that it saved.

    Attributes:
        rows: (n, d) its embeddings of the items.
        encoder: Fields of the encoder beside its kind and its files.
        items: The items; by default `TEXTS` or `IMAGES`.
        record: Fields of the encoder that the space's record must have.
        head: What its classifier predicts, if it has one.
        label_names: Names of classes that the record must have.
    """

    rows: Floats
    encoder: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[str | bytes, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    head: HeadReference | None = None
    label_names: Sequence[str] = ()


@dataclass(frozen=True)
class Case:
    """A model that its own library saves.

    Attributes:
        id: The id of the case, and of its space and head.
        save: Saves the model into a folder, and returns what the library computes from it.
        kind: The kind of the encoder.
    """

    id: str
    save: Callable[[Path], Reference]
    kind: Literal["transformers", "timm", "transformers-vision"] = "transformers"

    @property
    def modality(self) -> Literal["text", "image"]:
        """The modality of its items."""
        return "text" if self.kind == "transformers" else "image"


@torch.inference_mode()
def spread_logits(layer: torch.nn.Module, run: Callable[[], Any]) -> None:
    """Change the last layer of a classifier with random weights so that its logits differ by input.

    Args:
        layer: A linear layer, or a convolution of one pixel.
        run: Runs the model on all inputs.
    """
    inputs: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, values: inputs.append(values[0]))
    run()
    handle.remove()
    weight = layer.get_parameter("weight")
    rows = torch.cat([part.reshape(-1, weight.shape[1]) for part in inputs])
    centred = rows - rows.mean(dim=0)
    torch.nn.init.normal_(weight)
    weight.div_((centred @ weight.flatten(1).T).std())
    if getattr(layer, "bias", None) is not None:
        layer.get_parameter("bias").copy_(-rows.mean(dim=0) @ weight.flatten(1).T)
