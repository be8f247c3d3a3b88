"""The forward pass of text encoders: token ids to embeddings."""

from collections.abc import Sequence
from typing import Any, Final

import torch

from stitchwork.models.matryoshka import cut_and_normalize
from stitchwork.models.pooling import pool
from stitchwork.models.projections import architecture, project
from stitchwork.resources import PoolingMode, TextEncoder, TokenPooling

UNPADDED_TYPES: Final = frozenset({"convbert", "fnet", "funnel", "nystromformer", "yoso"})
"""Types of models whose rows depend on padding, in spite of a mask: by convolutions, Fourier
transforms or pooled sequences. A batch of theirs has texts of one length."""


GLOBAL_CLASSIFIERS: Final = frozenset({"LongformerForSequenceClassification"})
"""Classes of classifiers whose first token attends to all others, and all others to it."""


class TextModel(torch.nn.Module):
    """Maps token ids and mask, each (n, t), to embeddings (n, dim) float32.

    Args:
        model: A transformers model in evaluation mode.
        modules: What follows the pooling.
        spec: The encoder.
        modes: Its pooling modes.
        takes_mask: Whether the model's tokenizer gives it a mask.
    """

    def __init__(
        self,
        model: Any,
        modules: torch.nn.Module,
        spec: TextEncoder,
        modes: Sequence[PoolingMode],
        takes_mask: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.after = modules
        self._spec = spec
        self._token_modes = token_modes(modes)
        self._takes_mask = takes_mask
        self._is_global = "cls" in modes and architecture(model.config) in GLOBAL_CLASSIFIERS

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, dim) of padded ids, whose mask is that of `pool`."""
        tokens = (mask > 0).long()
        inputs = {"input_ids": ids} | ({"attention_mask": tokens} if self._takes_mask else {})
        if not self._token_modes:
            return self.embeddings(self.projections(**inputs))
        hidden = self.hidden_states(**inputs).float()
        return self.embeddings(pool(hidden, mask, tokens.sum(dim=1), self._token_modes))

    def projections(self, **inputs: torch.Tensor) -> torch.Tensor:
        """The rows (n, d) of a text tower with its projection."""
        return project(self.model, "text", **inputs).float()

    def hidden_states(self, **inputs: torch.Tensor) -> torch.Tensor:
        """The hidden states (n, t, d) of the spec's layer."""
        if self._is_global:
            first = torch.zeros_like(inputs["input_ids"])
            first[:, 0] = 1
            inputs["global_attention_mask"] = first
        return hidden_states(self.model, self._spec.layer, **inputs)

    def embeddings(self, rows: torch.Tensor) -> torch.Tensor:
        """Pooled rows (n, d) as embeddings (n, dim)."""
        return cut_and_normalize(self._spec, self.after(rows))


def hidden_states(model: Any, layer: int, **inputs: torch.Tensor) -> torch.Tensor:
    """The hidden states (n, t, d) of a layer; those of the last one are after its normalisation."""
    is_last = layer in (-1, int(getattr(model.config, "num_hidden_layers", 0) or 0))
    output = model(**inputs, output_hidden_states=not is_last)
    hidden: torch.Tensor = output.last_hidden_state if is_last else output.hidden_states[layer]
    return hidden


def token_modes(modes: Sequence[PoolingMode]) -> tuple[TokenPooling, ...]:
    """The modes that pool hidden states; none if a projection takes their place."""
    return tuple(mode for mode in modes if mode != "projection")
