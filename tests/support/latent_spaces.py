"""Synthetic pairs of spaces: random linear maps of the same latent points."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SpacePair:
    """Anchors and samples of two parallel spaces."""

    x_anchors: Floats
    y_anchors: Floats
    x: Floats
    y: Floats


@dataclass(frozen=True)
class ArrayLibrary:
    """An array library under test: from numpy to its arrays, and back."""

    name: str
    from_numpy: Callable[[Any], Any]
    to_numpy: Callable[[Any], NDArray[Any]]


def make_spaces(
    k: int, d_x: int, d_y: int, *, latent: int = 12, noise: float = 0.02, seed: int = 0, n: int = 40
) -> SpacePair:
    """Anchors and samples: latent points through two random maps, moved, with noise."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(k + n, latent)) * np.linspace(2.0, 0.5, latent)
    x, y = (
        points @ rng.normal(size=(latent, d)) * scale
        + 3 * rng.normal(size=d)
        + noise * rng.normal(size=(k + n, d))
        for d, scale in ((d_x, 1.0), (d_y, 5.0))
    )
    return SpacePair(x[:k], y[:k], x[k:], y[k:])


def rotation(d: int, seed: int = 1) -> Floats:
    """A random orthogonal matrix (d, d)."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    return q


def plain_unit(x: NDArray[Any], mean: Floats) -> Floats:
    """Unit rows of x about a mean, as anyone would write it."""
    rows: Floats = np.asarray(x, np.float64) - mean
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def cosines(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Cosine of each row of a to the same row of b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.sum(a * b, axis=1) / lengths)
