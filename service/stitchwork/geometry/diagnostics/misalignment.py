"""Pairs of anchors that do not belong together, found from the two spaces alone.

Each space is predicted from the other without the pair itself; how much better a pair's own
partner fits than all others gives one number per pair. What that number would be for wrong pairs
needs no guess: the two spaces hold k² − k of them.
"""

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame, directions
from stitchwork.geometry.inverses import whitened_inverse, whitened_write
from stitchwork.geometry.linalg import host, solve_spd

WHITENED: Final = 0.15
"""b of the rows that are compared; with it the published precision was measured."""
RIDGE: Final = 0.1
"""The kernel ridge of the predictions."""
ROUNDS: Final = 3
"""Fits, each without the pairs that the one before took for wrong."""
SURE: Final = 0.5
"""Probability from which the next fit leaves a pair out."""
NAMED: Final = 0.1
"""Probability from which a pair is named: precision and recall then are about equal, for right
pairs that fit badly are fewer than the mixture supposes. Chosen, with the whitening, on 300 digits
and 300 letters in fonts through EfficientNet-Lite, pairs and draws that no figure reports."""
SHARPNESS: Final = tuple(2.0 ** (half / 2) for half in range(17))
"""What cosines may be multiplied by before they are compared as log-odds, 1 to 256."""
SAMPLED: Final = 256
"""Rows that the sharpness is chosen on."""
STEPS: Final = 100
LEAST: Final = 20
"""Fewer pairs tell nothing about what is usual."""
MOST: Final = 500.0
"""Log-odds beyond which nothing is surer, and numbers overflow."""
GRID: Final = 2.0**20
"""Misfits are compared on a grid of about 1e-6; they run to hundreds."""
NARROW: Final = 0.4
"""Least spread of right pairs, in standard deviations of wrong ones: the spread of real ones where
many fit worse than some wrong pair, and no less where hardly any does and rounding is all."""


class Suspect(NamedTuple):
    """A pair that does not seem to belong together.

    Attributes:
        pair: Which, by its index.
        probability: That it is wrong, in (0.1, 1].
        cosine: Of the target's anchor to what the source's anchor predicts without the pair, both
            whitened as the `exp` bridge writes.
        rank: How many other anchors of the target fit the source's better; 0 is the best.
        fits: The anchor of the target that fits best.
    """

    pair: int
    probability: float
    cosine: float
    rank: int
    fits: int


def misaligned(x: Frame, y: Frame) -> list[Suspect]:
    """Pairs of anchors that do not belong together.

    Args:
        x: Frame of one space.
        y: Frame of another, whose anchors are said to be of the same inputs in the same order.

    Returns:
        Suspects, most probable first; empty for fewer than 20 pairs that have a direction in
        both spaces, and where most pairs are wrong, which `agreement` tells. Scaling, rotating
        or moving a space changes nothing. Takes O(k³) time and O(k²) memory, so that the caller
        caps k.

    Raises:
        InvalidInputError: If the numbers of anchors differ.

    Source:
        Ours. Kernel and ridge as in the service's kernel bridge; the mixture is that of Efron,
        Large-Scale Inference, 2010, chapter 5, where what is known is the distribution of wrong
        pairs and what is sought is the share of them.
    """
    if x.count != y.count:
        raise InvalidInputError(f"expected anchors of one set, got {x.count} and {y.count} of them")
    xp = array_namespace(x.unit, y.unit)
    alive = np.flatnonzero(host(xp.any(x.unit != 0, axis=1) & xp.any(y.unit != 0, axis=1)))
    if len(alive) < LEAST:
        return []
    rows = xp.asarray(alive, device=device(x.unit))
    u, v = x.unit[rows, :], y.unit[rows, :]
    # Compared as `exp` writes them: mildly whitened, where the right partner stands out more.
    x_rows, y_rows = (_whitened(replace(seen, unit=seen.unit[rows, :])) for seen in (x, y))
    right = np.ones(len(alive), bool)
    for _ in range(ROUNDS):
        there = _predicted(u, y_rows, right) @ y_rows.T
        back = x_rows @ _predicted(v, x_rows, right).T
        wrong = _wrong(_misfit(there, right) + _misfit(back, right))
        again = wrong < SURE
        if bool((again == right).all()) or again.sum() < max(2, len(alive) // 2):
            break
        right = again
    return _told(there, wrong, alive)


def _whitened(seen: Frame) -> Array:
    """(k, d) unit rows in directions that the anchors' spread weighs more evenly."""
    return directions(whitened_write(seen, whitened_inverse(seen, None, WHITENED)))[0]


def _predicted(u: Array, v: Array, right: NDArray[np.bool_]) -> Array:
    """(k, d_Y) unit rows: what each row of u says of its row of v, by all right pairs but itself.

    Kernel ridge regression with exp(u·uᵀ − 1), left out in closed form: with A = (K + λI)⁻¹ the
    prediction without pair i is v_i − (A V)_i / A_ii.
    """
    xp = array_namespace(u, v)
    fit = xp.asarray(np.flatnonzero(right), device=device(u))
    kernel = xp.exp(u @ u[fit, :].T - 1.0)
    eye = xp.eye(fit.shape[0], dtype=u.dtype, device=device(u))
    solved = solve_spd(kernel[fit, :] + RIDGE * eye, xp.concat([eye, v[fit, :]], axis=1))
    inverse, weights = solved[:, : fit.shape[0]], solved[:, fit.shape[0] :]
    found = kernel @ weights
    found[fit, :] = v[fit, :] - weights / xp.linalg.diagonal(inverse)[:, None]
    norms = xp.linalg.vector_norm(found, axis=1)
    return found / xp.where(norms > 0, norms, 1.0)[:, None]


def _misfit(cosines: Array, right: NDArray[np.bool_]) -> Array:
    """(k, k) of how badly j fits i, against all that could take the place of either."""
    return _surprise(cosines, right) + _surprise(cosines.T, right).T


def _surprise(cosines: Array, right: NDArray[np.bool_]) -> Array:
    """−log of the softmax of each row, as sharp as makes its right pairs most likely."""
    xp = array_namespace(cosines)
    trusted = np.flatnonzero(right)
    some = xp.asarray(trusted[:: max(1, len(trusted) // SAMPLED)], device=device(cosines))
    sample = cosines[some, :]
    own = xp.linalg.diagonal(cosines)[some]

    def cost(sharp: float) -> float:
        # A wrong pair among them must not pull: its surprise counts only so much.
        each = xp.minimum(_log_sum(sharp * sample) - sharp * own, xp.full_like(own, 8.0))
        return float(xp.mean(each))

    sharp = min(SHARPNESS, key=cost)
    return _log_sum(sharp * cosines)[:, None] - sharp * cosines


def _log_sum(rows: Array) -> Array:
    xp = array_namespace(rows)
    peak = xp.max(rows, axis=1)
    return peak + xp.log(xp.sum(xp.exp(rows - peak[:, None]), axis=1))


def _wrong(misfit: Array) -> NDArray[np.float64]:
    """(k,) probability of each pair on the diagonal to be as those off it."""
    from scipy.special import ndtri

    xp = array_namespace(misfit)
    k = misfit.shape[0]
    # Anchors that are one fit equally well, whatever the rounding.
    misfit = xp.round(misfit * GRID) / GRID
    own = xp.linalg.diagonal(misfit) + 0.0
    every = xp.sort(xp.reshape(misfit, (-1,)))
    # Those off the diagonal that fit better: all that do, less those on it.
    better = host(xp.searchsorted(every, own)) - host(xp.searchsorted(xp.sort(own), own))
    # As normal scores wrong pairs are standard normal, and right ones, as it turns out, normal
    # too, far on the left.
    score = ndtri((better + 0.5) / (k * (k - 1) + 1))
    mean = float(np.median(score))
    spread = max(NARROW, 1.4826 * float(np.median(np.abs(score - mean))))
    share = 0.02
    wrong = np.zeros(k)
    for _ in range(STEPS):
        log_odds = ((score - mean) / spread) ** 2 / 2 - score**2 / 2
        odds = np.exp(np.minimum(log_odds, MOST)) * spread
        wrong = share * odds / (share * odds + 1 - share)
        # Whoever fits better than is usual is right.
        wrong = np.where(score < mean, 0.0, wrong)
        rest = 1 - wrong
        share = float(np.mean(wrong))
        mean = float(np.sum(rest * score) / np.sum(rest))
        spread = max(NARROW, float(np.sqrt(np.sum(rest * (score - mean) ** 2) / np.sum(rest))))
    return np.asarray(wrong)


def _told(cosines: Array, wrong: NDArray[np.float64], alive: NDArray[np.int64]) -> list[Suspect]:
    named = np.flatnonzero(wrong > NAMED)
    found = []
    for i in named[np.argsort(-wrong[named], kind="stable")].tolist():
        row = host(cosines[i, :])
        suspect = Suspect(
            int(alive[i]),
            float(wrong[i]),
            float(row[i]),
            int((row > row[i]).sum()),
            int(alive[int(row.argmax())]),
        )
        found.append(suspect)
    return found
