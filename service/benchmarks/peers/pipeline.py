"""What the scripts beside this one serve: texts to labels, as the worker does it."""

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
        stitch: An .npz file of a fused map and a head: `matrix` (d_X, d_Y), `offset` and `mean`
            (d_Y,), `scale`, `weight` (c, d_Y), `bias` (c,).
    """

    def __init__(self, model: str, stitch: str) -> None:
        torch.set_num_threads(1)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._model: Any = AutoModel.from_pretrained(model, attn_implementation="sdpa").eval()
        with np.load(stitch) as held:
            self._stitch = {name: torch.from_numpy(held[name]) for name in held.files}

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        """Label and score of each text, those of like length in one batch."""
        s = self._stitch
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        answers: list[dict[str, Any]] = [{} for _ in texts]
        for at in range(0, len(order), BATCH):
            part = order[at : at + BATCH]
            tokens = self._tokenizer([texts[i] for i in part], padding=True, return_tensors="pt")
            hidden = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][:, :, None]
            rows = (hidden * mask).sum(1) / mask.sum(1) @ s["matrix"] - s["offset"]
            rows = rows / rows.norm(dim=1, keepdim=True) * s["scale"] + s["mean"]
            best = torch.softmax(rows @ s["weight"].T + s["bias"], 1).max(1)
            for i, label, score in zip(
                part, best.indices.tolist(), best.values.tolist(), strict=True
            ):
                answers[i] = {"label": str(label), "score": score}
        return answers

    def together(self, requests: list[list[str]]) -> list[list[dict[str, Any]]]:
        """One pass over the texts of several requests."""
        answers = iter(self([text for texts in requests for text in texts]))
        return [[next(answers) for _ in texts] for texts in requests]


def forever() -> None:
    """Until this process is killed."""
    while True:
        time.sleep(3600)
