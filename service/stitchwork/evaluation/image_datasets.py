"""Labelled images that need no download, as PNG files in memory."""

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
"""Folder of the files of Debian's package `dataset-fashion-mnist`."""


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled images for training, the first of which are anchors, and for testing.

    Attributes:
        name: Name of the data set.
        train: PNG files to fit heads on.
        train_labels: Labels of `train`.
        test: PNG files held out.
        test_labels: Labels of `test`.
        anchors: How many of the first training images are anchors.
        input_size: Side in pixels to which encoders resize the images.
    """

    name: str
    train: list[bytes]
    train_labels: list[str]
    test: list[bytes]
    test_labels: list[str]
    anchors: int
    input_size: int


def digits(seed: int = 0) -> Split:
    """scikit-learn's digits: 1,400 for training, 1,000 of them anchors, 397 for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    return _split("digits", images, data.target, 1400, 397, 1000, 96, seed)


def fashion_mnist(seed: int = 0, train: int = 3000) -> Split:
    """Fashion-MNIST: 3,000 for training, 1,500 of them anchors, 2,000 for testing.

    Args:
        seed: Seed of the split.
        train: Number of training images.

    Raises:
        UnknownResourceError: If Debian's package `dataset-fashion-mnist` is not installed.
    """
    folder = FASHION_FOLDER
    if not folder.is_dir():
        raise UnknownResourceError(
            "Fashion-MNIST is not installed; Debian's package dataset-fashion-mnist contains it"
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
    train_indices, test_indices = order[:train], order[train : train + test]
    return Split(
        name,
        [_png(images[i]) for i in train_indices],
        [str(labels[i]) for i in train_indices],
        [_png(images[i]) for i in test_indices],
        [str(labels[i]) for i in test_indices],
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
