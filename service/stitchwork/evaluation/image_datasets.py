"""Labelled images that a machine can have without a download, as PNG files in memory."""

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import UnknownResourceError

FASHION_FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts the files."""


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled images: some to learn from, whose first ones serve as anchors, some held out.

    Attributes:
        name: The data set.
        train: PNG files to fit heads on.
        train_labels: Their labels.
        test: PNG files held out.
        test_labels: Their labels.
        anchors: How many of the first training images are anchors.
        input_size: Side in pixels at which encoders should see them.
    """

    name: str
    train: list[bytes]
    train_labels: list[str]
    test: list[bytes]
    test_labels: list[str]
    anchors: int
    input_size: int


def digits(seed: int = 0) -> Split:
    """scikit-learn's digits: 1,400 to learn from, 1,000 of them anchors, 397 held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)
    return _split("digits", images, found.target, 1400, 397, 1000, 96, seed)


def fashion_mnist(seed: int = 0, train: int = 3000) -> Split:
    """Fashion-MNIST: 3,000 to learn from, 1,500 of them anchors, 2,000 held out.

    Args:
        seed: Of the split.
        train: How many to learn from.

    Raises:
        UnknownResourceError: If Debian's package `dataset-fashion-mnist` is not installed.
    """
    folder = FASHION_FOLDER
    if not folder.is_dir():
        raise UnknownResourceError(
            "Fashion-MNIST is not on this machine; Debian's package dataset-fashion-mnist holds it"
        )
    names = [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle-boot",
    ]
    images = _idx(folder / "train-images-idx3-ubyte.gz")
    labels = np.array(names)[_idx(folder / "train-labels-idx1-ubyte.gz")]
    return _split("fashion-mnist", images, labels, train, 2000, 1500, 128, seed)


DATASETS: Final[dict[str, Callable[[], Split]]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
}


def _split(
    name: str,
    images: NDArray[Any],
    labels: NDArray[Any],
    train: int,
    test: int,
    anchors: int,
    input_size: int,
    seed: int,
) -> Split:
    order = np.random.default_rng(seed).permutation(len(images))
    learn, held_out = order[:train], order[train : train + test]
    return Split(
        name,
        [_png(images[i]) for i in learn],
        [str(labels[i]) for i in learn],
        [_png(images[i]) for i in held_out],
        [str(labels[i]) for i in held_out],
        anchors,
        input_size,
    )


def _png(image: NDArray[Any]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _idx(path: Path) -> NDArray[np.uint8]:
    """An array in the IDX format of the MNIST files: magic, sizes, then bytes."""
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
