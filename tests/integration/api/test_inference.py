"""`/translate` and `/classify` against the formulas computed directly, in every format."""

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save
from sklearn.datasets import load_digits

from tests.conftest import Pair
from tests.support.reference_formulas import reference_translation

SAFETENSORS = "application/vnd.safetensors"
NPY = "application/x-npy"


@pytest.fixture(scope="module")
def expected(spaces: Pair) -> NDArray[np.float64]:
    return reference_translation(
        *(rows.astype(np.float64) for rows in (spaces.x_anchors, spaces.y_anchors, spaces.x))
    )


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def npy_bytes(rows: NDArray[Any], fortran: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asfortranarray(rows) if fortran else rows)
    return buffer.getvalue()


def test_json_translation_equals_the_formulas(
    http: httpx.Client, spaces: Pair, expected: NDArray[np.float64]
) -> None:
    body = {"source": "x", "target": "y", "embeddings": spaces.x.tolist()}
    response = http.post("/translate", json=body)
    result = response.json()
    assert relative_error(np.array(result["embeddings"]), expected) < 1e-4
    assert result["source"]["version"] == http.get("/spaces/x").json()["version"]
    assert response.headers["stitchwork-target"] == f"y@{result['target']['version']}"


def test_base64_translation_equals_the_formulas(
    http: httpx.Client, spaces: Pair, expected: NDArray[np.float64]
) -> None:
    rows = [base64.b64encode(row.tobytes()).decode() for row in spaces.x]
    body = {"source": "x", "target": "y", "encoding_format": "base64", "embeddings": rows}
    encoded = http.post("/translate", json=body).json()["embeddings"]
    decoded = np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in encoded])
    assert relative_error(decoded, expected) < 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_safetensors_translation_equals_the_formulas(
    http: httpx.Client, spaces: Pair, expected: NDArray[np.float64], dtype: type
) -> None:
    response = http.post(
        "/translate",
        params={"source": "x", "target": "y"},
        content=save({"embeddings": spaces.x.astype(dtype)}),
        headers={"Content-Type": SAFETENSORS},
    )
    assert response.headers["content-type"] == SAFETENSORS
    assert relative_error(load(response.content)["embeddings"], expected) < 1e-4


@pytest.mark.parametrize("fortran", [False, True])
def test_npy_translation_equals_the_formulas(
    http: httpx.Client, spaces: Pair, expected: NDArray[np.float64], fortran: bool
) -> None:
    response = http.post(
        "/translate",
        params={"source": "x", "target": "y"},
        content=npy_bytes(spaces.x, fortran),
        headers={"Content-Type": NPY},
    )
    result = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert relative_error(result, expected) < 1e-4


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (NPY, NPY),
        (f"{SAFETENSORS};q=0, application/json", "application/json"),
        (f"application/json;q=0.5, {SAFETENSORS}", SAFETENSORS),
        ("text/html", "application/json"),
    ],
)
def test_accept_header_chooses_the_format(
    http: httpx.Client, spaces: Pair, accept: str, content_type: str
) -> None:
    body = {"source": "x", "target": "y", "embeddings": spaces.x[:1].tolist()}
    response = http.post("/translate", json=body, headers={"Accept": accept})
    assert response.headers["content-type"] == content_type


def test_irp_is_finite_and_a_space_to_itself_is_unchanged(http: httpx.Client, spaces: Pair) -> None:
    body = {"source": "x", "target": "x", "embeddings": spaces.x.tolist()}
    same = http.post("/translate", json=body).json()["embeddings"]
    np.testing.assert_array_equal(np.array(same, np.float32), spaces.x)
    for bridge in ("irp", "irp-completed"):
        result = http.post("/translate", json={**body, "target": "y", "bridge": bridge}).json()
        assert np.isfinite(result["embeddings"]).all()


def test_row_at_the_mean_is_undefined_and_has_no_confidence(
    http: httpx.Client, spaces: Pair
) -> None:
    rows = [spaces.x_anchors.astype(np.float64).mean(0).tolist(), spaces.x[0].tolist()]
    result = http.post("/translate", json={"source": "x", "target": "y", "embeddings": rows}).json()
    assert result["undefined"] == [0]
    binary = http.post(
        "/translate",
        params={"source": "x", "target": "y"},
        content=npy_bytes(np.array(rows)),
        headers={"Content-Type": NPY, "Accept": NPY},
    )
    assert binary.headers["stitchwork-undefined"] == "1"
    np.testing.assert_allclose(result["embeddings"][0], spaces.y_anchors.mean(0), rtol=1e-4)
    predictions = http.post("/classify/h", json={"space": "x", "embeddings": rows}).json()[
        "predictions"
    ]
    assert predictions[0]["confidence"] == 0
    assert predictions[1]["confidence"] > 0


def test_classify_equals_translate_and_the_head(
    http: httpx.Client, spaces: Pair, expected: NDArray[np.float64]
) -> None:
    scores = expected @ np.stack([np.ones(32), -np.ones(32)]).T + [0, 1]
    body = {"space": "x", "embeddings": spaces.x.tolist(), "top": 2}
    result = http.post("/classify/h", json=body).json()
    labels = [("a", "<b>")[i] for i in scores.argmax(1)]
    assert [p["label"] for p in result["predictions"]] == labels
    assert all(abs(sum(t["score"] for t in p["top"]) - 1) < 1e-6 for p in result["predictions"])
    assert result["head"]["id"] == "h"


def test_inputs_outside_the_anchors_cover_are_named(http: httpx.Client) -> None:
    images, _ = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    rows = images[order].astype(np.float32)
    for name, anchors in (("d1", rows[:400]), ("d2", 16 - rows[:400, ::-1])):
        body = {"anchor_set": "digits", "anchors": anchors.tolist()}
        assert http.put(f"/spaces/{name}", json=body).status_code == 201
    inside, noise = rows[400:420], np.random.default_rng(1).uniform(0, 16, (3, 64))
    mixed = np.concatenate([inside, noise.astype(np.float32)])
    translated = http.post(
        "/translate", json={"source": "d1", "target": "d2", "embeddings": mixed.tolist()}
    )
    assert {20, 21, 22} <= set(translated.json()["uncovered"])
    assert len(translated.json()["uncovered"]) <= 5
    assert "outside what the anchors of space d1 cover" in translated.json()["warnings"][0]
    assert translated.headers["stitchwork-uncovered"] == str(len(translated.json()["uncovered"]))
    weight = np.random.default_rng(0).normal(size=(10, 64)).tolist()
    names = [str(i) for i in range(10)]
    http.put("/heads/digit", json={"space": "d2", "weight": weight, "labels": names})
    classified = http.post("/classify/digit", json={"space": "d1", "embeddings": mixed.tolist()})
    assert classified.json()["uncovered"] == translated.json()["uncovered"]
    binary = http.post(
        "/translate",
        params={"source": "d1", "target": "d2"},
        content=npy_bytes(mixed),
        headers={"Content-Type": NPY},
    )
    assert binary.headers["stitchwork-uncovered"] == translated.headers["stitchwork-uncovered"]
    for body in (
        {"source": "d1", "target": "d2", "embeddings": inside[:1].tolist()},
        # Neither uses the anchors of d1.
        {"source": "d1", "target": "d1", "embeddings": mixed.tolist()},
        {"source": "d1", "target": "d2", "bridge": "none", "embeddings": mixed.tolist()},
    ):
        plain = http.post("/translate", json=body)
        assert (plain.json()["uncovered"], plain.json()["warnings"]) == ([], [])
        assert "stitchwork-uncovered" not in plain.headers


def test_few_anchors_are_warned_of_once_where_they_translate(http: httpx.Client) -> None:
    rows = np.random.default_rng(0).normal(size=(63, 8))
    http.put("/anchor-sets/few", json={"modality": "vector", "size": 63})
    for name, anchors in (("few1", rows), ("few2", rows[:, ::-1])):
        body = {"anchor_set": "few", "anchors": anchors.tolist()}
        record = http.put(f"/spaces/{name}", json=body).json()
        (warning,) = record["warnings"]
    assert warning.startswith("63 anchors are few: ")
    weight, labels = np.eye(8)[:2].tolist(), ["a", "b"]
    http.put("/heads/few", json={"space": "few2", "weight": weight, "labels": labels})
    inputs = {"embeddings": rows[:5].tolist()}
    paths = {"/translate": {"source": "few1", "target": "few2"}, "/classify/few": {"space": "few1"}}
    for path, fields in paths.items():
        response = http.post(path, json={**inputs, **fields})
        assert response.json()["warnings"] == [warning], path
        assert response.headers["stitchwork-few-anchors"] == "63"
    for path, fields in (
        ("/translate", {"source": "few1", "target": "few1"}),
        ("/translate", {"source": "few1", "target": "few2", "bridge": "none"}),
        ("/classify/few", {"space": "few2"}),
    ):
        response = http.post(path, json={**inputs, **fields})
        assert response.json()["warnings"] == [], (path, fields)
        assert "stitchwork-few-anchors" not in response.headers


def test_embeddings_whose_lengths_do_not_fit_their_space_are_warned_of(
    http: httpx.Client, spaces: Pair
) -> None:
    rows = spaces.x / np.linalg.norm(spaces.x, axis=1, keepdims=True)
    body = {"source": "x", "target": "y", "embeddings": rows.tolist()}
    translated = http.post("/translate", json=body)
    warning = translated.json()["warnings"][-1]
    assert warning.startswith("50 of 50 embeddings have length 1, the anchors of space x ")
    assert warning.endswith("were they normalised, such as by a vector store?")
    assert translated.headers["stitchwork-mismatched-lengths"] == "50"
    body = {"space": "x", "embeddings": rows.tolist()}
    classified = http.post("/classify/h", json=body)
    assert classified.json()["warnings"][-1] == warning
    assert classified.headers["stitchwork-mismatched-lengths"] == "50"
    body = {"space": "x", "embeddings": spaces.x.tolist()}
    fitting = http.post("/classify/h", json=body)
    assert not any("length" in sentence for sentence in fitting.json()["warnings"])
    assert "stitchwork-mismatched-lengths" not in fitting.headers
    # The reverse: the anchors are unit, the embeddings are not.
    anchors = spaces.x_anchors / np.linalg.norm(spaces.x_anchors, axis=1, keepdims=True)
    unit = {"anchor_set": "S", "anchors": anchors.tolist()}
    assert http.put("/spaces/unit-x", json=unit).status_code == 201
    body = {"source": "unit-x", "target": "y", "embeddings": spaces.x.tolist()}
    reverse = http.post("/translate", json=body)
    assert "the anchors were normalised, were the embeddings not?" in reverse.json()["warnings"][-1]
    assert http.delete("/spaces/unit-x").status_code == 204
