"""A world of requests whose right answers are computed here, without the service."""

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
from stitchwork.resources import ImageEncoder
from tests.support.load import LoadRequest

ENCODERS: Final = ("lite0", "lite1")
ANCHOR_SET: Final = "drill"
ANCHORS: Final = 400
TRAIN: Final = 600
INPUT_SIZE: Final = 64
ASKS: Final = 24
"""Different requests of each kind; each answer is recognised among them."""
STITCHED, EMBEDDED, TRANSLATED, CLASSIFIED = 64, 32, 64, 64
TOLERANCE: Final = 1e-3
"""Relative to the spread of the right answer; batches of another shape round differently."""


@dataclass(frozen=True)
class ExpectedResults:
    """Two encoders, a head, and what they say, computed in this process.

    Attributes:
        specs: The encoders.
        items: Anchor images.
        classifier: The head, which lives in the space of `lite1`.
        labels: Its labels.
        asks: Requests, by kind.
    """

    specs: Mapping[str, ImageEncoder]
    items: list[bytes]
    classifier: Classifier
    labels: list[str]
    asks: Mapping[str, list[LoadRequest]]

    def register(self, client: Stitchwork) -> None:
        """Tell a service of it all, and wait until it serves."""
        client.put_anchor_set(ANCHOR_SET, "image", items=self.items)
        for name, spec in self.specs.items():
            client.put_space(name, ANCHOR_SET, encoder=spec.model_dump())
        for name in self.specs:
            client.wait("spaces", name)
        ((weight, bias),) = self.classifier.layers
        arrays = {"weight": np.asarray(weight), "bias": np.asarray(bias)}
        client.put_head("digit", "lite1", arrays=arrays, labels=self.labels)


def expected_results(folder: Path, seed: int = 0) -> ExpectedResults:
    """Digits through two EfficientNet-Lite encoders, and requests about held-out images.

    Args:
        folder: Where the encoders' files go.
        seed: Of the split and of the requests.
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
    catalog = EncoderCache("cpu", [folder], offline=True)

    def embed(name: str, images: list[bytes]) -> Floats:
        loaded = catalog.get(specs[name])
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
    right = {
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
    asks = {}
    for kind, size in sizes.items():
        picked = [rng.choice(len(split.test), size, replace=False) for _ in range(ASKS)]
        wanted = [right[kind][rows] for rows in picked]
        asks[kind] = [
            _ask(kind, split.test, test, rows, wanted, i) for i, rows in enumerate(picked)
        ]
    return ExpectedResults(specs, split.train[:ANCHORS], fit.classifier, fit.labels, asks)


def _ask(
    kind: str,
    images: list[bytes],
    test: Mapping[str, Floats],
    rows: Any,
    wanted: list[Floats],
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

    def right(answer: bytes) -> bool:
        return _close(read(answer), wanted[i])

    def foreign(answer: bytes) -> bool:
        found = read(answer)
        return any(_close(found, other) for j, other in enumerate(wanted) if j != i)

    return LoadRequest(kind, path, body, headers, right, foreign)


def _json(items: list[bytes], **fields: Any) -> bytes:
    return orjson.dumps({"items": json_items(items), **fields})


def _rows(answer: bytes) -> Floats:
    return load(answer)["embeddings"]


def _scores(answer: bytes) -> Floats:
    """(n, c) probabilities in the order of the labels, which are digits."""
    found = [
        sorted(told["top"], key=lambda best: str(best["label"]))
        for told in orjson.loads(answer)["predictions"]
    ]
    return np.array([[best["score"] for best in row] for row in found], np.float32)


def _close(found: Floats, wanted: Floats) -> bool:
    return found.shape == wanted.shape and bool(
        np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    )
