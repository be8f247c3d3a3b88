"""The last layers of transformers' image classifiers, taken from their models."""

from typing import Any, Final

import torch
from torch.nn import Identity, Linear, Sequential

from stitchwork.errors import InvalidInputError

TEACHER_HEADS: Final = ("cls_classifier", "distillation_classifier")
"""Classifiers of two tokens, whose logits a distilled model averages."""


class HalfRow(torch.nn.Module):
    """Rows (n, d) as one half of rows (n, 2 d), twice as large; the other half is zero.

    The average of both halves is the concatenation of their rows.
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        self._index = index

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The wider rows."""
        zeros = torch.zeros_like(rows)
        parts = [2 * rows, zeros] if self._index == 0 else [zeros, 2 * rows]
        return torch.cat(parts, dim=-1)


def replace_classifier(name: str, model: Any) -> Linear:
    """Replace the last layer of a classifier, so that its logits are the layer's inputs.

    The two layers of a distilled model become one, whose input has both tokens.

    Returns:
        The layer.

    Raises:
        InvalidInputError: If it is not one linear layer.
    """
    heads = [getattr(model, attribute, None) for attribute in TEACHER_HEADS]
    if all(isinstance(head, Linear) for head in heads):
        for i, attribute in enumerate(TEACHER_HEADS):
            setattr(model, attribute, HalfRow(i))
        return _average(*heads)
    layer = getattr(model, "classifier", None)
    if isinstance(layer, Linear):
        model.classifier = Identity()
        return layer
    if isinstance(layer, Sequential) and isinstance(layer[-1], Linear):
        last: Linear = layer[-1]
        layer[-1] = Identity()
        return last
    form = type(layer).__name__ if layer is not None else type(model).__name__
    raise InvalidInputError(
        f"expected the classifier of {name} to be one linear layer, got {form}; name another "
        "pooling to use its embeddings"
    )


@torch.no_grad()
def _average(*heads: Any) -> Linear:
    """The average of layers, each on its own part of a concatenated input."""
    count, width = len(heads), heads[0].in_features
    layer = Linear(count * width, heads[0].out_features)
    layer.weight.copy_(torch.cat([head.weight for head in heads], dim=1) / count)
    biases = [head.bias for head in heads if head.bias is not None]
    layer.bias.copy_(torch.stack(biases).sum(dim=0) / count) if biases else layer.bias.zero_()
    return layer
