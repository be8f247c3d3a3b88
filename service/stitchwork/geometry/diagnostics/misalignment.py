"""Misaligned pairs: anchors that do not belong together, found from the two spaces alone.

Each space is predicted from the other without the pair itself; how much better a pair's own
partner fits than all others is its misfit. The distribution of misfits of wrong pairs is known:
the two spaces contain k² − k of them.
"""

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame, nonzero_anchors, normalise
from stitchwork.geometry.linalg import solve_spd, to_numpy
from stitchwork.geometry.ridge_factors import whitened_inverse, whitened_write

WHITENING: Final = 0.15
"""b of the rows that are compared; the published precision was measured with it."""
RIDGE: Final = 0.1
"""The kernel ridge of the predictions."""
ROUNDS: Final = 3
"""Fits, each without the pairs that the one before judged wrong."""
REFIT_PROBABILITY: Final = 0.5
"""Probability from which the next fit leaves a pair out."""
MIN_PROBABILITY: Final = 0.1
"""Probability from which a pair is reported: precision and recall are then about equal, because
fewer right pairs fit badly than the mixture assumes. Chosen, with the whitening, on 300 digits
and 300 letters in fonts through EfficientNet-Lite, pairs and draws that no figure reports."""
SHARPNESSES: Final = tuple(2.0 ** (half / 2) for half in range(17))
"""Factors that cosines may be multiplied by before they are compared as log-odds, 1 to 256."""
MAX_SAMPLE: Final = 256
"""Rows that the sharpness is chosen on."""
MAX_SURPRISE: Final = 8.0
"""Of one pair when the sharpness is chosen, so that a wrong pair has little influence."""
STEPS: Final = 100
MIN_PAIRS: Final = 20
"""Fewer pairs do not determine the distributions."""
MAX_LOG_ODDS: Final = 500.0
"""Log-odds are limited to this, so that their exponential does not overflow."""
MISFIT_GRID: Final = 2.0**20
"""Misfits, which reach hundreds, are rounded to a grid of about 1e-6."""
MIN_SPREAD: Final = 0.4
"""Minimum standard deviation of right pairs, relative to that of wrong ones: the value of real
spaces where many pairs fit worse than some wrong pair. Where hardly any does, the estimate would
be rounding error."""


class MisalignedPair(NamedTuple):
    """A pair of anchors that probably does not belong together.

    Attributes:
        pair: The pair's index.
        probability: That it is wrong, in (0.1, 1].
        cosine: Between the target's anchor and its prediction from the source's anchor without
            the pair, both whitened as the `exp` bridge writes.
        rank: How many other anchors of the target fit the source's better; 0 is the best.
        best_match: Index of the target's anchor that fits best.
    """

    pair: int
    probability: float
    cosine: float
    rank: int
    best_match: int


def misaligned_pairs(x: Frame, y: Frame) -> list[MisalignedPair]:
    """Pairs of anchors that probably do not belong together.

    Args:
        x: Frame of one space.
        y: Frame of another, whose anchors should be of the same inputs in the same order.

    Returns:
        Pairs, most probable first; empty for fewer than 20 pairs that have a direction in both
        spaces, and where most pairs are wrong, which `agreement` detects. Scaling, rotating or
        moving a space changes nothing. Takes O(k³) time and O(k²) memory, so that the caller
        limits k.

    Raises:
        InvalidInputError: If the numbers of anchors differ.

    Source:
        Ours. Kernel and ridge as in the `exp` bridge; the mixture is that of Efron, Large-Scale
        Inference, 2010, chapter 5, with a known distribution of wrong pairs and an unknown share
        of them.
    """
    if x.count != y.count:
        raise InvalidInputError(f"expected anchors of one set, got {x.count} and {y.count} of them")
    xp = array_namespace(x.unit_anchors, y.unit_anchors)
    candidates = np.flatnonzero(to_numpy(nonzero_anchors(x) & nonzero_anchors(y)))
    if len(candidates) < MIN_PAIRS:
        return []
    rows = xp.asarray(candidates, device=device(x.unit_anchors))
    x, y = (replace(frame, unit_anchors=frame.unit_anchors[rows, :]) for frame in (x, y))
    # Compared as `exp` writes them: mildly whitened, where the right partner stands out more.
    x_rows, y_rows = _whitened(x), _whitened(y)
    trusted = np.ones(len(candidates), bool)
    for _ in range(ROUNDS):
        x_to_y = _predictions(x.unit_anchors, y_rows, trusted) @ y_rows.T
        y_to_x = x_rows @ _predictions(y.unit_anchors, x_rows, trusted).T
        wrong = _probability_wrong(_misfit(x_to_y, trusted) + _misfit(y_to_x, trusted))
        new_trusted = wrong < REFIT_PROBABILITY
        unchanged = bool((new_trusted == trusted).all())
        if unchanged or new_trusted.sum() < max(2, len(candidates) // 2):
            break
        trusted = new_trusted
    return _ranked_pairs(x_to_y, wrong, candidates)


def _whitened(frame: Frame) -> Array:
    """(k, d) unit rows after the partial whitening of the `exp` bridge."""
    return normalise(whitened_write(frame, whitened_inverse(frame, None, WHITENING)))[0]


def _predictions(u: Array, v: Array, trusted: NDArray[np.bool_]) -> Array:
    """(k, d_Y) unit rows: each row of v predicted from its row of u, by all other trusted pairs.

    Kernel ridge regression with exp(u·uᵀ − 1), left out in closed form: with A = (K + λI)⁻¹ the
    prediction without pair i is v_i − (A V)_i / A_ii.
    """
    xp = array_namespace(u, v)
    train = xp.asarray(np.flatnonzero(trusted), device=device(u))
    kernel = xp.exp(u @ u[train, :].T - 1.0)
    eye = xp.eye(train.shape[0], dtype=u.dtype, device=device(u))
    solution = solve_spd(kernel[train, :] + RIDGE * eye, xp.concat([eye, v[train, :]], axis=1))
    inverse, weights = solution[:, : train.shape[0]], solution[:, train.shape[0] :]
    predictions = kernel @ weights
    predictions[train, :] = v[train, :] - weights / xp.linalg.diagonal(inverse)[:, None]
    norms = xp.linalg.vector_norm(predictions, axis=1)
    return predictions / xp.where(norms > 0, norms, 1.0)[:, None]


def _misfit(cosines: Array, trusted: NDArray[np.bool_]) -> Array:
    """(k, k) of how badly j fits i, against all alternatives to either."""
    return _surprise(cosines, trusted) + _surprise(cosines.T, trusted).T


def _surprise(cosines: Array, trusted: NDArray[np.bool_]) -> Array:
    """−log of the softmax of each row, at the most likely sharpness of trusted pairs."""
    xp = array_namespace(cosines)
    indices = np.flatnonzero(trusted)
    selected = xp.asarray(indices[:: max(1, len(indices) // MAX_SAMPLE)], device=device(cosines))
    sample = cosines[selected, :]
    own = xp.linalg.diagonal(cosines)[selected]

    def mean_surprise(sharpness: float) -> float:
        surprise = _log_sum_exp(sharpness * sample) - sharpness * own
        return float(xp.mean(xp.minimum(surprise, xp.full_like(own, MAX_SURPRISE))))

    sharpness = min(SHARPNESSES, key=mean_surprise)
    return _log_sum_exp(sharpness * cosines)[:, None] - sharpness * cosines


def _log_sum_exp(rows: Array) -> Array:
    xp = array_namespace(rows)
    peak = xp.max(rows, axis=1)
    return peak + xp.log(xp.sum(xp.exp(rows - peak[:, None]), axis=1))


def _probability_wrong(misfit: Array) -> NDArray[np.float64]:
    """(k,) probability that each pair, on the diagonal, is from the distribution off it."""
    from scipy.special import ndtri

    xp = array_namespace(misfit)
    k = misfit.shape[0]
    # Equal anchors must fit equally well, whatever the rounding.
    misfit = xp.round(misfit * MISFIT_GRID) / MISFIT_GRID
    own = xp.linalg.diagonal(misfit) + 0.0
    every = xp.sort(xp.reshape(misfit, (-1,)))
    # Entries off the diagonal that fit better: all that do, minus those on it.
    better = to_numpy(xp.searchsorted(every, own)) - to_numpy(xp.searchsorted(xp.sort(own), own))
    # As normal scores wrong pairs are standard normal, and right ones empirically normal too, far
    # to the left.
    score = ndtri((better + 0.5) / (k * (k - 1) + 1))
    mean = float(np.median(score))
    spread = max(MIN_SPREAD, 1.4826 * float(np.median(np.abs(score - mean))))
    share = 0.02
    wrong = np.zeros(k)
    for _ in range(STEPS):
        log_odds = ((score - mean) / spread) ** 2 / 2 - score**2 / 2
        odds = np.exp(np.minimum(log_odds, MAX_LOG_ODDS)) * spread
        wrong = share * odds / (share * odds + 1 - share)
        # Pairs that fit better than average are right.
        wrong = np.where(score < mean, 0.0, wrong)
        rest = 1 - wrong
        share = float(np.mean(wrong))
        mean = float(np.sum(rest * score) / np.sum(rest))
        variance = np.sum(rest * (score - mean) ** 2) / np.sum(rest)
        spread = max(MIN_SPREAD, float(np.sqrt(variance)))
    return np.asarray(wrong)


def _ranked_pairs(
    cosines: Array, wrong: NDArray[np.float64], candidates: NDArray[np.int64]
) -> list[MisalignedPair]:
    reported = np.flatnonzero(wrong > MIN_PROBABILITY)
    pairs = []
    for i in reported[np.argsort(-wrong[reported], kind="stable")].tolist():
        row = to_numpy(cosines[i, :])
        pair = MisalignedPair(
            pair=int(candidates[i]),
            probability=float(wrong[i]),
            cosine=float(row[i]),
            rank=int((row > row[i]).sum()),
            best_match=int(candidates[int(row.argmax())]),
        )
        pairs.append(pair)
    return pairs
