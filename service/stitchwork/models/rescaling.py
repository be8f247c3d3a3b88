"""How sensitive a transformer is to the scale of the inputs of its layers."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from transformers import AutoModel, AutoTokenizer

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.models.pooling import pool

BATCH: Final = 32


def rescaled_layers(
    texts: Sequence[str],
    alphas: Sequence[float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, float]]:
    """Compare the outputs of MiniLM with those after one layer's input was scaled by α.

    Args:
        texts: Texts to embed.
        alphas: Positive factors.
        progress: Called with the number of completed and of all combinations.

    Returns:
        One record for each layer, from 1, and α: the mean cosine to the unscaled model of the
        layer's output (`layer_cosine`) and of the pooled embedding (`cosine`), and the mean
        ratio of the layer's output norms (`norm_ratio`). At α = 1 all are 1.

    Raises:
        InvalidInputError: If the package of MiniLM is not installed.

    Source:
        Maiorca et al., arXiv 2406.15057, scale invariance, on the layers of a transformer.
    """
    folder = minilm_folder()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder, use_safetensors=True).eval()
    layers = model.encoder.layer
    batches = [
        tokenizer(list(texts[at : at + BATCH]), padding=True, return_tensors="pt")
        for at in range(0, len(texts), BATCH)
    ]
    plain = [_hidden(model, batch) for batch in batches]
    total = len(layers) * len(alphas)
    records: list[dict[str, float]] = []
    for number, layer in enumerate(layers):
        for alpha in alphas:
            progress(len(records), total)
            handle = layer.register_forward_pre_hook(
                lambda _, inputs, alpha=alpha: (inputs[0] * alpha, *inputs[1:])
            )
            scaled = [_hidden(model, batch) for batch in batches]
            handle.remove()
            records.append(
                {"layer": number + 1, "alpha": alpha, **_compare(batches, plain, scaled, number)}
            )
    progress(total, total)
    return records


def _hidden(model: Any, batch: Any) -> tuple[torch.Tensor, ...]:
    """Output (n, t, d) of each layer, without the embedding layer."""
    with torch.inference_mode():
        states: tuple[torch.Tensor, ...] = model(**batch, output_hidden_states=True).hidden_states
    return states[1:]


def _compare(
    batches: Sequence[Any],
    plain: Sequence[tuple[torch.Tensor, ...]],
    scaled: Sequence[tuple[torch.Tensor, ...]],
    layer: int,
) -> dict[str, float]:
    layer_cosines, ratios, cosines = [], [], []
    for batch, before, after in zip(batches, plain, scaled, strict=True):
        mask = batch["attention_mask"].bool()
        a, b = before[layer][mask], after[layer][mask]
        layer_cosines.append(torch.nn.functional.cosine_similarity(a, b, dim=1))
        ratios.append(b.norm(dim=1) / a.norm(dim=1))
        lengths = mask.sum(dim=1)
        x, y = (pool(states[-1], mask, lengths, "mean") for states in (before, after))
        cosines.append(torch.nn.functional.cosine_similarity(x, y, dim=1))
    return {
        "layer_cosine": float(torch.cat(layer_cosines).mean()),
        "cosine": float(torch.cat(cosines).mean()),
        "norm_ratio": float(torch.cat(ratios).mean()),
    }
