"""The formulas as anyone would write them, in plain numpy, and anchors that break careless ones."""

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
"""Fewer anchors than dimensions, as many, more."""
FLOOR = 3 / 13


def naive(unit: Floats, delta: float, first: int) -> list[int]:
    """Farthest-point sampling from the whole k × k matrix of distances."""
    alive = [i for i in range(len(unit)) if np.any(unit[i])]
    first = min(alive, key=lambda i: (i - first) % len(unit))
    distance = np.round(1 - np.abs(unit @ unit.T), 12)
    picked = [first]
    while rest := [i for i in alive if i not in picked]:
        nearest = {i: min(distance[i, j] for j in picked) for i in rest}
        best = max(rest, key=lambda i: (nearest[i], -i))
        if nearest[best] < delta:
            break
        picked.append(best)
    return picked


def plain_rho(unit: Floats) -> float:
    k, d = unit.shape
    c = unit.T @ unit / k
    one, two = np.trace(c) ** 2, np.trace(c @ c)
    return float(np.clip((two + one) / ((k + 1) * (two - one / d)), 0, 1))


def plain_read(unit: Floats, rho: float) -> Floats:
    """The primal, by an explicit inverse, whatever the shape."""
    k, d = unit.shape
    c = unit.T @ unit / k
    return np.asarray(np.linalg.inv((1 - rho) * c + rho * np.trace(c) / d * np.eye(d)) @ unit.T / k)


def plain_dual(unit: Floats, rho: float) -> Floats:
    k, d = unit.shape
    trace = np.trace(unit.T @ unit / k)
    return np.asarray(
        unit.T @ np.linalg.inv((1 - rho) * unit @ unit.T + rho * trace / d * k * np.eye(k))
    )


def plain_write(unit: Floats, delta: float, seeds: list[int]) -> Floats:
    """The mean over seeds of pseudo-inverses of naively pruned anchors."""
    total = np.zeros_like(unit)
    for seed in seeds:
        kept = naive(unit, delta, int(np.random.default_rng(seed).integers(len(unit))))
        total[kept] += np.linalg.pinv(unit[kept].T, rcond=1e-6) / len(seeds)
    return total


def plain_white(unit: Floats, rho: float, power: float) -> Floats:
    """V G^(−b), by a matrix power in the primal, whatever the shape."""
    k, d = unit.shape
    c = unit.T @ unit / k
    values, vectors = np.linalg.eigh((1 - rho) * c + rho * np.trace(c) / d * np.eye(d))
    return np.asarray(unit @ (vectors * values**-power) @ vectors.T)


def plain_kernel(a: Floats, b: Floats, anchors: int) -> Floats:
    return np.asarray(np.exp(min(1.0, (anchors / 1000) ** 0.5) * (a @ b.T - 1.0)))


def plain_exp(unit: Floats) -> Floats:
    """(K + 0.1 I)⁻¹ over all anchors, none of them zero."""
    return np.asarray(np.linalg.inv(plain_kernel(unit, unit, len(unit)) + 0.1 * np.eye(len(unit))))


def ridge_whole(seen: Frame, shrinkage: float | None) -> Any:
    """The service's own P (d, k)."""
    return apply_ridge_read(seen, ridge_inverse(seen, shrinkage), _eye(seen), shrinkage or 0.0)


def exp_whole(seen: Frame, most: int) -> Any:
    """The service's own A (m, k)."""
    return apply_exp_read(seen, exp_inverse(seen, most), _eye(seen))


def whitened_whole(seen: Frame, shrinkage: float | None, power: float) -> Any:
    """The service's own W (k, d)."""
    return whitened_write(seen, whitened_inverse(seen, shrinkage, power))


def irp_whole(seen: Frame, delta: float, omega: int) -> Any:
    """The service's own D (k, d)."""
    found = irp_inverse(seen, delta, omega)
    whole = array_namespace(seen.unit_anchors).zeros_like(seen.unit_anchors)
    whole[found.anchor_indices, :] = found.matrix
    return whole


def _eye(seen: Frame) -> Any:
    xp = array_namespace(seen.unit_anchors)
    return xp.eye(seen.count, dtype=xp.float64, device=device(seen.unit_anchors))


def directly(x_anchors: Floats, y_anchors: Floats, x: Floats) -> Floats:
    """The default bridge from end to end: `exp`, written with b = 0.2."""
    mu_x, mu_y = x_anchors.mean(0), y_anchors.mean(0)
    u, v = plain_unit(x_anchors, mu_x), plain_unit(y_anchors, mu_y)
    write = plain_white(v, max(plain_rho(v), FLOOR), 0.2)
    z = plain_kernel(plain_unit(x, mu_x), u, len(u)) @ plain_exp(u) @ write
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


def degenerate() -> dict[str, Floats]:
    """Anchors on which a careless inverse breaks."""
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
