"""Comparison of an encoder with the full pass of its own library's model, on a few inputs.

An encoder is compared when it is loaded from files for which no space is ready yet: when a space is
registered, and when its files have changed. The comparison shares the weights of the encoder.
"""

import math
from collections.abc import Sequence
from typing import Final

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


def reference_rows(
    states: Sequence[torch.Tensor], modes: Sequence[PoolingMode], prompt_length: int
) -> torch.Tensor:
    """Pool the hidden states of texts, each alone, by plain formulas.

    Args:
        states: The hidden states (t, d) of each text.
        modes: The pooling modes.
        prompt_length: Number of first tokens that are left out.

    Returns:
        (n, d) for each mode.
    """
    rows = [torch.cat([_pool(hidden, mode, prompt_length) for mode in modes]) for hidden in states]
    return torch.stack(rows)


def check_rows(name: str, library: str, rows: torch.Tensor, expected: torch.Tensor) -> None:
    """Refuse an encoder whose rows differ from those of its library.

    Args:
        name: Name of the model in errors.
        library: Name of the library in errors.
        rows: (n, dim) what the encoder gives for n inputs as one batch.
        expected: (n, dim) what the library gives for each input alone.

    Raises:
        JobFailedError: If they differ, with the difference.
    """
    if rows.shape != expected.shape:
        detail = f"have {rows.shape[1]} numbers, those of {library} {expected.shape[1]}"
    else:
        difference = max_relative_difference(expected, rows)
        if difference <= MAX_DIFFERENCE:
            return
        detail = (
            f"in a batch differ by {difference:.2g} from those that {library} computes of single "
            "inputs"
        )
    raise JobFailedError(
        f"{name} cannot be used as an encoder: its embeddings {detail}", code=ErrorCode.LOAD_FAILED
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
