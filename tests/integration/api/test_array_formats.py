"""Binary bodies of every number type: int8 with a scale, half precision, and what is refused."""

import io
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from tests.conftest import Pair

NPY = "application/x-npy"
SAFETENSORS = "application/vnd.safetensors"
PATH = "/translate?source=x&target=y"


def npy(rows: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def post(http: httpx.Client, media: str, body: bytes, path: str = PATH) -> httpx.Response:
    headers = {"Content-Type": media, "Accept": "application/json"}
    return http.post(path, content=body, headers=headers)


def rows_of(response: httpx.Response) -> NDArray[Any]:
    assert response.status_code == 200, response.text
    return np.array(response.json()["embeddings"])


@pytest.fixture
def int8(spaces: Pair) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantised rows and the scale of each column."""
    scale = np.abs(spaces.x).max(axis=0) / 127
    return np.round(spaces.x / scale).astype(np.int8), scale.astype(np.float32)


@pytest.mark.parametrize("dtype", ["F16", "F64", "BF16"])
def test_safetensors_of_other_floats_are_translated(
    http: httpx.Client, spaces: Pair, dtype: str
) -> None:
    expected = rows_of(post(http, NPY, npy(spaces.x)))
    types = {"F16": np.float16, "F64": np.float64, "BF16": ml_dtypes.bfloat16}
    body = save({"embeddings": spaces.x.astype(types[dtype])})
    actual = rows_of(post(http, SAFETENSORS, body))
    np.testing.assert_allclose(actual, expected, atol=0.05 * np.abs(expected).max())


def test_int8_rows_are_multiplied_by_a_scale_of_any_form(
    http: httpx.Client, spaces: Pair, int8: tuple[NDArray[np.int8], NDArray[np.float32]]
) -> None:
    values, scale = int8
    by_column = rows_of(post(http, NPY, npy(values * scale)))
    tensors = save({"embeddings": values, "scale": scale})
    np.testing.assert_allclose(rows_of(post(http, SAFETENSORS, tensors)), by_column, rtol=1e-4)
    metadata = {"scale": str(scale.tolist())}
    body = save({"embeddings": values}, metadata)
    np.testing.assert_allclose(rows_of(post(http, SAFETENSORS, body)), by_column, rtol=1e-4)
    by_number = rows_of(post(http, NPY, npy(values * np.float32(0.25))))
    actual = rows_of(post(http, NPY, npy(values), f"{PATH}&scale=0.25"))
    np.testing.assert_allclose(actual, by_number, rtol=1e-4)
    per_row = np.linspace(0.1, 1, len(values), dtype=np.float32)[:, None]
    by_row = rows_of(post(http, NPY, npy(values * per_row)))
    body = save({"embeddings": values, "scale": per_row})
    np.testing.assert_allclose(rows_of(post(http, SAFETENSORS, body)), by_row, rtol=1e-4)
    classified = post(http, NPY, npy(values), "/classify/h?space=x&scale=0.25")
    assert classified.status_code == 200, classified.text


def test_space_is_registered_by_int8_anchors(http: httpx.Client, spaces: Pair) -> None:
    scale = np.float32(np.abs(spaces.x_anchors).max() / 127)
    values = np.round(spaces.x_anchors / scale).astype(np.int8)
    path = f"/spaces/int8-anchors?anchor_set=S&scale={scale}"
    headers = {"Content-Type": NPY}
    created = http.put(path, content=npy(values), headers=headers)
    assert created.status_code == 201, created.text
    same = {"anchor_set": "S", "anchors": (values * scale).tolist()}
    assert http.put("/spaces/int8-anchors", json=same).json()["outcome"] == "same"
    assert http.delete("/spaces/int8-anchors").status_code == 204


REFUSED: dict[str, tuple[Any, str, str]] = {
    "int8 without scale": (np.int8, PATH, "expected int8 rows with a scale, got none"),
    "uint8": (np.uint8, PATH, "got uint8"),
    "int64": (np.int64, PATH, "got int64"),
    "boolean": (np.bool_, PATH, "got bool"),
    "floats with scale": (np.float32, f"{PATH}&scale=0.5", "expected int8 rows with a scale"),
    "scale of zero": (np.int8, f"{PATH}&scale=0", "expected positive finite numbers"),
    "scale of text": (np.int8, f"{PATH}&scale=x", "expected a number, or one for each column"),
    "scale of nan": (np.int8, f"{PATH}&scale=nan", "expected positive finite numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("media", [NPY, SAFETENSORS])
def test_rows_of_other_types_are_refused_alike_in_both_formats(
    http: httpx.Client, spaces: Pair, name: str, media: str
) -> None:
    dtype, path, message = REFUSED[name]
    rows = np.ones((3, 24), dtype)
    body = npy(rows) if media == NPY else save({"embeddings": rows})
    response = post(http, media, body, path)
    assert response.status_code == 422, response.text
    assert message in response.json()["detail"]


@pytest.mark.parametrize("dtype", ["complex64", "<U3", "f4,f4", "object", "datetime64[s]"])
def test_npy_of_anything_but_real_numbers_is_refused(
    http: httpx.Client, spaces: Pair, dtype: str
) -> None:
    response = post(http, NPY, npy(np.zeros((3, 24), dtype)))
    assert response.status_code == 422, response.text
    assert "expected 1 or 2 dimensions of floats or int8, got" in response.json()["detail"]


@pytest.mark.parametrize("scale", [np.ones(7), np.ones((2, 1)), np.ones((3, 24)), np.ones((1, 1))])
def test_scale_of_another_shape_is_refused(
    http: httpx.Client, spaces: Pair, scale: NDArray[np.float64]
) -> None:
    body = save({"embeddings": np.ones((3, 24), np.int8), "scale": scale})
    response = post(http, SAFETENSORS, body)
    assert response.status_code == (200 if scale.size == 1 else 422)
    if scale.size > 1:
        assert response.json()["pointer"] in ("/scale", "/embeddings")


def test_numbers_that_do_not_fit_float32_are_refused_in_each_format(
    http: httpx.Client, spaces: Pair
) -> None:
    for value in (1e300, np.nan, np.inf):
        rows = np.ones((3, 24))
        rows[1, 6] = value
        for media, body in ((NPY, npy(rows)), (SAFETENSORS, save({"embeddings": rows}))):
            response = post(http, media, body)
            assert response.status_code == 422
            assert response.json()["pointer"] == "/embeddings/1/6"
            assert "expected finite numbers that float32 can hold" in response.json()["detail"]


def test_json_takes_no_scale_and_other_routes_take_no_int8(
    http: httpx.Client, spaces: Pair
) -> None:
    body = {"source": "x", "target": "y", "embeddings": [[1] * 24], "scale": 0.5}
    response = http.post("/translate", json=body)
    assert response.status_code == 422
    assert "expected int8 rows with a scale, as safetensors or .npy" in response.json()["detail"]
    path = "/anchors/choose?count=2"
    response = post(http, NPY, npy(np.ones((3, 24), np.int8)), path)
    assert response.status_code == 422
    assert "expected a 2-dimensional array of floats, got int8" in response.json()["detail"]


@pytest.mark.parametrize("media", ["application/zip", "application/vnd.apache.parquet"])
def test_archives_and_tables_are_refused_with_the_types_that_are_taken(
    http: httpx.Client, spaces: Pair, media: str
) -> None:
    response = post(http, media, b"PK")
    assert response.status_code == 415
    assert "application/vnd.safetensors, application/x-npy" in response.json()["detail"]
