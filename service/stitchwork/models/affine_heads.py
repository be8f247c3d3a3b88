"""The classifiers of image models as one linear layer, computed from what they do.

Image classifiers are affine in evaluation, whatever they consist of: a linear layer, one behind a
batch normalisation, the average of two, or a weighted sum of several, each on a part of the
features. So they are applied to the unit vectors instead of being taken apart.
"""

import copy
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

TOLERANCE: Final = 1e-4
"""Largest difference of a logit, as a share of the largest logit."""
MAX_ROUNDING: Final = 1e-9
"""Largest difference of an affine function in float64, relative to its largest value."""
BATCH: Final = 512
"""Unit vectors in one forward pass."""


class NotAffineError(Exception):
    """A classifier that is not an affine function of the features; the message says why."""


def affine_head(
    classifier: Any, rows: torch.Tensor, logits: torch.Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weight (c, d) and bias (c,) of a classifier.

    Args:
        classifier: A module or, where several are averaged, a tuple; a ModuleList has one module
            for each of consecutive parts of the features. Nested as models have them.
        rows: (n, d) features of some inputs.
        logits: (n, c) logits of the whole model for these inputs.

    Raises:
        NotAffineError: If the logits are not an affine function of the features.
    """
    width, count = rows.shape[1], logits.shape[-1]
    if logits.ndim != 2:
        raise NotAffineError(f"its logits have shape {tuple(logits.shape)}")
    parts = []
    for module, start, stop in _modules(classifier, width):
        weight, bias = _probe(module, stop - start)
        if len(bias) != count:
            raise NotAffineError(f"{_name(module)} has {len(bias)} outputs, the model {count}")
        whole = np.zeros((count, width))
        whole[:, start:stop] = weight
        parts.append((whole, bias))
    x, expected = rows.double().numpy(), logits.double().numpy()
    outputs = [x @ weight.T + bias for weight, bias in parts]
    # The share of each module is what makes the sum equal to the model's logits.
    design = np.stack([output.ravel() for output in outputs], axis=1)
    shares = np.linalg.lstsq(design, expected.ravel(), rcond=None)[0]
    weight = sum(share * part for share, (part, _) in zip(shares, parts, strict=True))
    bias = sum(share * part for share, (_, part) in zip(shares, parts, strict=True))
    difference, scale = np.abs(x @ weight.T + bias - expected).max(), np.abs(expected).max()
    if not difference <= TOLERANCE * scale:
        raise NotAffineError(
            f"{_name(classifier)} on its features gives logits that differ from the model's by up "
            f"to {difference:.3g} of {scale:.3g}"
        )
    return np.asarray(weight, np.float32), np.asarray(bias, np.float32)


def _modules(classifier: Any, width: int) -> Iterator[tuple[Any, int, int]]:
    """The modules of a classifier, each with the part of the features that it takes."""
    if isinstance(classifier, tuple):
        for module in classifier:
            yield from _modules(module, width)
        return
    if not isinstance(classifier, torch.nn.ModuleList):
        yield classifier, 0, width
        return
    start = 0
    for module in classifier:
        stop = start + _input_width(module)
        yield module, start, stop
        start = stop
    if start != width:
        raise NotAffineError(f"its modules take {start} features, its encoder has {width}")


def _input_width(module: Any) -> int:
    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            return part.in_features
    raise NotAffineError(f"{_name(module)} has no linear layer")


@torch.inference_mode()
def _probe(module: Any, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The weight and bias of an affine module, in float64."""
    double = copy.deepcopy(module).double().eval()

    def apply(rows: torch.Tensor) -> torch.Tensor:
        is_image = isinstance(double, torch.nn.Conv2d)
        try:
            output = double(rows[:, :, None, None] if is_image else rows)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise NotAffineError(f"{_name(module)} does not take rows of features") from error
        if not isinstance(output, torch.Tensor) or output.numel() % len(rows):
            raise NotAffineError(f"{_name(module)} does not give one row of logits")
        return output.reshape(len(rows), -1)

    bias = apply(torch.zeros(1, width, dtype=torch.float64))[0]
    units = torch.eye(width, dtype=torch.float64)
    weight = torch.cat([apply(units[i : i + BATCH]) - bias for i in range(0, width, BATCH)]).T
    sample = torch.linspace(-3, 2, width, dtype=torch.float64)[None]
    output = apply(sample)
    difference = (sample @ weight.T + bias - output).abs().max()
    if not difference <= MAX_ROUNDING * (1 + output.abs().max() + weight.abs().sum(dim=1).max()):
        raise NotAffineError(f"{_name(module)} is not an affine function of its features")
    return weight.numpy(), bias.numpy()


def _name(classifier: Any) -> str:
    if isinstance(classifier, tuple):
        return " and ".join(_name(part) for part in classifier)
    return type(classifier).__name__
