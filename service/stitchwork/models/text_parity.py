"""Comparison of a composed text encoder with the full pass of its own library's model."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from stitchwork.errors import ErrorCode, JobFailedError
from stitchwork.models.openvino_backend import max_relative_difference
from stitchwork.resources import PoolingMode

SAMPLE_TEXTS: Final = (
    "The train to the coast was late again, and nobody could say why.",
    "Yes.",
    "Which of the two accounts was charged twice?",
)
MAX_DIFFERENCE: Final = 1e-3
"""Largest difference of a row, relative to its norm; rounding causes 1e-6."""


def check_rows(
    name: str,
    rows: torch.Tensor,
    inputs: Sequence[Mapping[str, Any]],
    hidden_states: Callable[[Mapping[str, Any]], torch.Tensor],
    modes: Sequence[PoolingMode],
    prompt_length: int,
    after: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Refuse an encoder whose rows differ from those of single texts with plain formulas.

    Args:
        name: Name of the model in errors.
        rows: (n, dim) what the encoder gives for n texts as one padded batch.
        inputs: What the model's own tokenizer gives for each text alone.
        hidden_states: The model's hidden states (1, t, d) of such an input.
        modes: The pooling modes.
        prompt_length: Number of first tokens that are left out.
        after: Maps pooled rows (n, ...) to embeddings (n, dim).

    Raises:
        JobFailedError: If they differ, with the difference.
    """
    pooled = [
        torch.cat([_pool(hidden_states(fields)[0].float(), mode, prompt_length) for mode in modes])
        for fields in inputs
    ]
    difference = max_relative_difference(after(torch.stack(pooled)), rows)
    if not difference <= MAX_DIFFERENCE:
        raise JobFailedError(
            f"{name} cannot be used as an encoder: its embeddings in a batch differ by "
            f"{difference:.2g} from those that transformers computes of single texts",
            code=ErrorCode.LOAD_FAILED,
        )


def _pool(hidden: torch.Tensor, mode: PoolingMode, start: int) -> torch.Tensor:
    """One text's hidden states (t, d) pooled to (d,), by the plain formula."""
    if mode == "last":
        return hidden[-1]
    pooled = hidden[start:]
    if mode == "cls":
        return pooled[0]
    if mode == "max":
        return pooled.amax(dim=0)
    if mode == "mean":
        return pooled.mean(dim=0)
    if mode == "mean_sqrt_len":
        return pooled.sum(dim=0) / math.sqrt(len(pooled))
    weights = torch.arange(start + 1, len(hidden) + 1, dtype=hidden.dtype)
    return pooled.T @ weights / weights.sum()
