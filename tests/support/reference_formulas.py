"""Reference formulas in plain numpy, and degenerate anchors."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from stitchwork.geometry.exp_factors import apply_exp_read, exp_inverse
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.irp_factors import irp_inverse
from stitchwork.geometry.ridge_factors import (
    apply_ridge_read,
    ridge_inverse,
    whitened_inverse,
    whitened_write,
)
from tests.support.latent_spaces import ArrayLibrary, Floats, make_spaces, plain_unit

SHAPES = [(9, 16), (16, 16), (60, 16)]
"""Fewer anchors than dimensions, equally many, and more."""
MIN_SHRINKAGE = 3 / 13


def naive_sampling(unit: Floats, delta: float, first: int) -> list[int]:
    """Farthest-point sampling from the whole k × k matrix of distances."""
    nonzero = [i for i in range(len(unit)) if np.any(unit[i])]
    first = min(nonzero, key=lambda i: (i - first) % len(unit))
    distance = np.round(1 - np.abs(unit @ unit.T), 12)
    selected = [first]
    while remaining := [i for i in nonzero if i not in selected]:
        nearest = {i: min(distance[i, j] for j in selected) for i in remaining}
        best = max(remaining, key=lambda i: (nearest[i], -i))
        if nearest[best] < delta:
            break
        selected.append(best)
    return selected


def plain_oas(unit: Floats) -> float:
    """The shrinkage ρ of OAS."""
    k, d = unit.shape
    c = unit.T @ unit / k
    one, two = np.trace(c) ** 2, np.trace(c @ c)
    return float(np.clip((two + one) / ((k + 1) * (two - one / d)), 0, 1))


def plain_ridge_read(unit: Floats, rho: float) -> Floats:
    """P_X in its primal form, by an explicit inverse, for any shape."""
    k, d = unit.shape
    c = unit.T @ unit / k
    return np.asarray(np.linalg.inv((1 - rho) * c + rho * np.trace(c) / d * np.eye(d)) @ unit.T / k)


def plain_ridge_read_dual(unit: Floats, rho: float) -> Floats:
    """P_X in its dual form, by an explicit inverse, for any shape."""
    k, d = unit.shape
    trace = np.trace(unit.T @ unit / k)
    return np.asarray(
        unit.T @ np.linalg.inv((1 - rho) * unit @ unit.T + rho * trace / d * k * np.eye(k))
    )


def plain_irp_write(unit: Floats, delta: float, seeds: list[int]) -> Floats:
    """The mean over seeds of pseudo-inverses of naively pruned anchors."""
    total = np.zeros_like(unit)
    for seed in seeds:
        selected = naive_sampling(unit, delta, int(np.random.default_rng(seed).integers(len(unit))))
        total[selected] += np.linalg.pinv(unit[selected].T, rcond=1e-6) / len(seeds)
    return total


def plain_whitened_write(unit: Floats, rho: float, power: float) -> Floats:
    """V G^(−b), by a matrix power in the primal form, for any shape."""
    k, d = unit.shape
    c = unit.T @ unit / k
    values, vectors = np.linalg.eigh((1 - rho) * c + rho * np.trace(c) / d * np.eye(d))
    return np.asarray(unit @ (vectors * values**-power) @ vectors.T)


def plain_kernel(a: Floats, b: Floats, anchors: int) -> Floats:
    """The kernel of `exp` between unit rows, in a space of so many anchors."""
    return np.asarray(np.exp(min(1.0, (anchors / 1000) ** 0.5) * (a @ b.T - 1.0)))


def plain_exp_read(unit: Floats) -> Floats:
    """(K + 0.1 I)⁻¹ over all anchors, none of them zero."""
    return np.asarray(np.linalg.inv(plain_kernel(unit, unit, len(unit)) + 0.1 * np.eye(len(unit))))


def ridge_read_matrix(frame: Frame, shrinkage: float | None) -> Any:
    """P (d, k) from the functions under test."""
    return apply_ridge_read(frame, ridge_inverse(frame, shrinkage), _eye(frame), shrinkage or 0.0)


def exp_read_matrix(frame: Frame, max_landmarks: int) -> Any:
    """A (m, k) from the functions under test."""
    return apply_exp_read(frame, exp_inverse(frame, max_landmarks), _eye(frame))


def whitened_write_matrix(frame: Frame, shrinkage: float | None, power: float) -> Any:
    """W (k, d) from the functions under test."""
    return whitened_write(frame, whitened_inverse(frame, shrinkage, power))


def irp_write_matrix(frame: Frame, delta: float, omega: int) -> Any:
    """D (k, d) from the functions under test."""
    inverse = irp_inverse(frame, delta, omega)
    write = array_namespace(frame.unit_anchors).zeros_like(frame.unit_anchors)
    write[inverse.anchor_indices, :] = inverse.matrix
    return write


def _eye(frame: Frame) -> Any:
    xp = array_namespace(frame.unit_anchors)
    return xp.eye(frame.count, dtype=xp.float64, device=device(frame.unit_anchors))


def reference_translation(x_anchors: Floats, y_anchors: Floats, x: Floats) -> Floats:
    """Translation by the default bridge, `exp` with b = 0.2, from anchors to rows."""
    mu_x, mu_y = x_anchors.mean(0), y_anchors.mean(0)
    u, v = plain_unit(x_anchors, mu_x), plain_unit(y_anchors, mu_y)
    write = plain_whitened_write(v, max(plain_oas(v), MIN_SHRINKAGE), 0.2)
    z = plain_kernel(plain_unit(x, mu_x), u, len(u)) @ plain_exp_read(u) @ write
    scale = np.linalg.norm(y_anchors - mu_y, axis=1).mean()
    return np.asarray(scale * z / np.linalg.norm(z, axis=1, keepdims=True) + mu_y)


def frames(lib: ArrayLibrary, k: int, d: int) -> tuple[Frame, Frame, Floats, Floats]:
    """Frames of a pair of spaces, and their unit anchors as plain numpy."""
    w = make_spaces(k, d, d + 4)
    x, y = (
        Frame.from_anchors(lib.from_numpy(w.x_anchors)),
        Frame.from_anchors(lib.from_numpy(w.y_anchors)),
    )
    return (
        x,
        y,
        plain_unit(w.x_anchors, w.x_anchors.mean(0)),
        plain_unit(w.y_anchors, w.y_anchors.mean(0)),
    )


def degenerate_anchors() -> dict[str, Floats]:
    """Anchors on which a naive inverse is not finite, by name."""
    rng = np.random.default_rng(3)
    wide, flat = rng.normal(size=(30, 8)), rng.normal(size=(30, 3)) @ rng.normal(size=(3, 8))
    with_mean = np.vstack([wide, -wide, np.zeros((2, 8))])
    return {
        "isotropic": np.vstack([np.eye(8), -np.eye(8)]),
        "rank-deficient": flat,
        "almost rank-deficient": flat + 1e-9 * wide,
        "duplicated": np.repeat(wide[:4], 5, axis=0),
        "constant column": np.where(np.arange(8) == 2, 5.0, wide),
        "colinear": np.outer(np.arange(30.0), np.ones(8)),
        "anchors at the mean": with_mean,
        "two anchors": wide[:2],
        "one dimension": wide[:, :1],
    }
