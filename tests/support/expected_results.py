"""Requests and their expected results, computed in this process without the service."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from safetensors.numpy import load, save

from stitchwork.client import SAFETENSORS, Floats, Stitchwork, json_items
from stitchwork.evaluation.image_datasets import digits
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, FittedSpace, compose
from stitchwork.geometry.classifier import Classifier, probabilities
from stitchwork.geometry.frame import Frame
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.head_fitting import fit_linear
from stitchwork.models.packaged_encoders import write_efficientnet_lite
from stitchwork.resources import ImageEncoder, Label
from tests.support.load import LoadRequest

ENCODERS: Final = ("lite0", "lite1")
ANCHOR_SET: Final = "drill"
ANCHORS: Final = 400
TRAIN: Final = 600
INPUT_SIZE: Final = 64
REQUESTS: Final = 24
"""Different requests of each kind, so that a swapped response is recognised."""
STITCHED, EMBEDDED, TRANSLATED, CLASSIFIED = 64, 32, 64, 64
TOLERANCE: Final = 1e-3
"""Relative to the largest expected value; batches of other shapes round differently."""


@dataclass(frozen=True)
class ExpectedResults:
    """Two encoders, a head, and requests with their expected results.

    Attributes:
        specs: The encoders.
        items: The anchor images.
        classifier: The head, in the space of `lite1`.
        labels: Its labels.
        requests: Requests by kind.
    """

    specs: Mapping[str, ImageEncoder]
    items: list[bytes]
    classifier: Classifier
    labels: list[Label]
    requests: Mapping[str, list[LoadRequest]]

    def register(self, client: Stitchwork) -> None:
        """Register all of it, and wait until it is ready."""
        client.put_anchor_set(ANCHOR_SET, "image", items=self.items)
        for name, spec in self.specs.items():
            client.put_space(name, ANCHOR_SET, encoder=spec.model_dump())
        for name in self.specs:
            client.wait("spaces", name)
        (layer,) = self.classifier.layers
        arrays = {name: np.asarray(array) for name, array in layer.arrays.items()}
        client.put_head("digit", "lite1", arrays=arrays, labels=self.labels)


def expected_results(folder: Path, seed: int = 0) -> ExpectedResults:
    """Digits through two EfficientNet-Lite encoders, and requests about held-out images.

    Args:
        folder: The folder for the encoders' files.
        seed: The seed of the split and of the requests.
    """
    split = digits(seed)
    specs = {
        name: ImageEncoder(
            model=f"tf_efficientnet_{name}",
            weights=str(write_efficientnet_lite(f"tf_efficientnet_{name}", folder)),
            input_size=INPUT_SIZE,
        )
        for name in ENCODERS
    }
    cache = EncoderCache("cpu", [folder], offline=True)

    def embed(name: str, images: list[bytes]) -> Floats:
        loaded = cache.get(specs[name])
        rows: Floats = loaded.batcher.embed(loaded.encoder.prepare(images), 32).numpy()
        return rows

    anchors = {name: embed(name, split.train[:ANCHORS]) for name in ENCODERS}
    train = np.concatenate([anchors["lite1"], embed("lite1", split.train[ANCHORS:TRAIN])])
    fit = fit_linear(train, split.train_labels[:TRAIN])
    test = {name: embed(name, split.test) for name in ENCODERS}
    sides = {name: FittedSpace(Frame.from_anchors(rows)) for name, rows in anchors.items()}

    def through(source: str, target: str, rows: Floats) -> Floats:
        mapped = compose(DEFAULT_BRIDGE, sides[source], sides[target]).apply(rows).rows
        return np.asarray(mapped, np.float32)

    def scores(rows: Floats) -> Floats:
        return np.asarray(probabilities(fit.classifier.logits(rows)), np.float32)

    rng = np.random.default_rng(seed)
    results = {
        "stitch": scores(through("lite0", "lite1", test["lite0"])),
        "embed": through("lite1", "lite0", test["lite1"]),
        "translate": through("lite0", "lite1", test["lite0"]),
        "classify": scores(test["lite1"]),
    }
    sizes = {
        "stitch": STITCHED,
        "embed": EMBEDDED,
        "translate": TRANSLATED,
        "classify": CLASSIFIED,
    }
    requests = {}
    for kind, size in sizes.items():
        samples = [rng.choice(len(split.test), size, replace=False) for _ in range(REQUESTS)]
        expected = [results[kind][rows] for rows in samples]
        requests[kind] = [
            _request(kind, split.test, test, rows, expected, i) for i, rows in enumerate(samples)
        ]
    return ExpectedResults(specs, split.train[:ANCHORS], fit.classifier, fit.labels, requests)


def _request(
    kind: str,
    images: list[bytes],
    test: Mapping[str, Floats],
    rows: Any,
    expected: list[Floats],
    i: int,
) -> LoadRequest:
    json = {"Content-Type": "application/json"}
    tensors = {"Content-Type": SAFETENSORS}
    items = [images[row] for row in rows]
    if kind == "stitch":
        body, headers, path = _json(items, top=10), json, "/stitch/lite0/digit"
    elif kind == "embed":
        body, path = _json(items, target="lite0"), "/embed/lite1"
        headers = {**json, "Accept": SAFETENSORS}
    elif kind == "translate":
        body, headers = save({"embeddings": test["lite0"][rows]}), tensors
        path = "/translate?source=lite0&target=lite1"
    else:
        body, headers = save({"embeddings": test["lite1"][rows]}), tensors
        path = "/classify/digit?space=lite1&top=10"
    read = _scores if kind in ("stitch", "classify") else _rows

    def is_right(body: bytes) -> bool:
        return _close(read(body), expected[i])

    def is_foreign(body: bytes) -> bool:
        result = read(body)
        return any(_close(result, other) for j, other in enumerate(expected) if j != i)

    return LoadRequest(kind, path, body, headers, is_right, is_foreign)


def _json(items: list[bytes], **fields: Any) -> bytes:
    return orjson.dumps({"items": json_items(items), **fields})


def _rows(body: bytes) -> Floats:
    return load(body)["embeddings"]


def _scores(body: bytes) -> Floats:
    """(n, c) probabilities in the order of the labels, which are digits."""
    rows = [
        sorted(prediction["top"], key=lambda entry: str(entry["label"]))
        for prediction in orjson.loads(body)["predictions"]
    ]
    return np.array([[entry["score"] for entry in row] for row in rows], np.float32)


def _close(result: Floats, expected: Floats) -> bool:
    return result.shape == expected.shape and bool(
        np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max()
    )
