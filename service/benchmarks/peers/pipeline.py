"""The pipeline that the other scripts of this folder serve: texts to labels, as in the worker."""

import time
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

BATCH = 32
WAIT_SECONDS = 0.005


class Pipeline:
    """Embed, translate, classify.

    Args:
        model: Folder of a transformers model.
        arrays: An .npz file of a map and a head: `matrix` (d_X, d_Y), `offset` and `mean`
            (d_Y,), `scale`, `weight` (c, d_Y), `bias` (c,).
        dtype: Name of the dtype of the model.
    """

    def __init__(self, model: str, arrays: str, dtype: str = "float32") -> None:
        torch.set_num_threads(1)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._model: Any = (
            AutoModel.from_pretrained(model, attn_implementation="sdpa")
            .to(getattr(torch, dtype))
            .eval()
        )
        with np.load(arrays) as npz:
            self._arrays = {name: torch.from_numpy(npz[name]) for name in npz.files}

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        """Label and score of each text, in batches of texts of similar length."""
        arrays = self._arrays
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        predictions: list[dict[str, Any]] = [{} for _ in texts]
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            tokens = self._tokenizer([texts[i] for i in part], padding=True, return_tensors="pt")
            hidden = self._model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"][:, :, None]
            rows = (hidden * mask).sum(1) / mask.sum(1) @ arrays["matrix"] - arrays["offset"]
            rows = rows / rows.norm(dim=1, keepdim=True) * arrays["scale"] + arrays["mean"]
            best = torch.softmax(rows @ arrays["weight"].T + arrays["bias"], 1).max(1)
            for i, label, score in zip(
                part, best.indices.tolist(), best.values.tolist(), strict=True
            ):
                predictions[i] = {"label": str(label), "score": score}
        return predictions

    def predict_requests(self, requests: list[list[str]]) -> list[list[dict[str, Any]]]:
        """Predictions for several requests, computed together."""
        predictions = iter(self([text for texts in requests for text in texts]))
        return [[next(predictions) for _ in texts] for texts in requests]


def forever() -> None:
    """Sleep until this process is killed."""
    while True:
        time.sleep(3600)
