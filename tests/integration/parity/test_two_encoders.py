"""The towers of a CLIP as two encoders of one space: texts classify images without training."""

import base64
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from stitchwork.client import Stitchwork
from tests.integration.parity.cases import IMAGES, TEXT_ANCHORS
from tests.integration.parity.tower_cases import PICTURES
from tests.support import machine
from tests.support.running_service import running
from tests.support.tower_models import save_clip

pytestmark = pytest.mark.models

CLASSES = ["a photo of a cat", "the river", "two dogs", "seven cups"]
ANCHORS = [*TEXT_ANCHORS, *(f"{word} {i}" for i, word in enumerate("abcdefghij" * 4))]


def test_texts_classify_images_as_the_library_does(tmp_path: Path) -> None:
    model = save_clip(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    fields = processor(text=CLASSES, images=PICTURES, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**fields).logits_per_image.softmax(dim=1).numpy()
    files = {"model": str(tmp_path), "normalize": True}
    with (
        running(roots=(tmp_path,), STITCHWORK_COMPILE_MODELS="false") as service,
        Stitchwork(service.url) as client,
        httpx.Client(base_url=service.url, timeout=machine.deadline(60)) as http,
    ):
        client.put_anchor_set("phrases", "text", items=ANCHORS)
        client.put_space("clip-text", "phrases", encoder={"kind": "transformers", **files})
        client.wait("spaces", "clip-text")
        anchors = client.embed("clip-text", ANCHORS)
        images = {"kind": "transformers-vision", **files}
        record = client.put_space("clip-image", "phrases", encoder=images, anchors=anchors)
        assert record["agreement"] == pytest.approx(1, abs=1e-4)
        scale = model.logit_scale.detach().exp().item()
        weight = (scale * client.embed("clip-text", CLASSES)).tolist()
        head = {"space": "clip-image", "weight": weight, "labels": CLASSES}
        assert http.put("/heads/zero-shot", json=head).is_success
        body = {"items": [base64_of(image) for image in IMAGES], "top": len(CLASSES)}
        predictions = http.post("/stitch/clip-image/zero-shot", json=body).json()["predictions"]
    scores = [{top["label"]: top["score"] for top in p["top"]} for p in predictions]
    actual = np.array([[score[label] for label in CLASSES] for score in scores])
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
