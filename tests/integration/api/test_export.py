"""Exported maps compute what the service computes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from safetensors.numpy import load

from stitchwork.client import ServiceError, Stitchwork
from stitchwork.errors import InvalidInputError, UnknownResourceError
from stitchwork.geometry.bridges import BRIDGES
from stitchwork.resources import Floats
from tests.conftest import Pair
from tests.support.onnx_models import run_onnx

PAGE = Path(__file__).parents[3] / "docs/guides/offline-maps.md"
assert_close = partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)


@pytest.fixture(scope="module")
def client(url: str, spaces: Pair) -> Any:
    with Stitchwork(url) as client:
        yield client


def inputs(pair: Pair) -> Floats:
    """Rows, one at the mean, and one each whose square overflows or underflows float32."""
    mean = pair.x_anchors.astype(np.float64).mean(axis=0).astype(np.float32)
    away = pair.x[:1] - mean
    return np.concatenate([pair.x, mean[None], away * np.float32(1e30), mean + away * 1e-5])


def properties(data: bytes) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}


@pytest.mark.parametrize("bridge", [b for b in BRIDGES if b != "none"])
def test_onnx_file_computes_what_the_service_computes(
    client: Stitchwork, spaces: Pair, bridge: str
) -> None:
    rows = inputs(spaces)
    outputs = run_onnx(client.export("x", "y", bridge, format="onnx"), rows)
    expected = client.translation(rows, "x", "y", bridge)
    assert_close(outputs["translated"], expected.rows)
    assert np.flatnonzero(~outputs["defined"]).tolist() == expected.undefined.tolist() == [50]
    assert np.isfinite(outputs["translated"]).all()


def test_onnx_file_of_non_finite_rows_marks_them_undefined(
    client: Stitchwork, spaces: Pair
) -> None:
    rows = np.full((3, 24), [[np.nan], [np.inf], [0]], np.float32)
    outputs = run_onnx(client.export("x", "y", format="onnx"), rows)
    assert np.isfinite(outputs["translated"]).all()
    assert outputs["defined"].tolist() == [False, False, True]


def test_onnx_file_of_a_space_to_itself_passes_rows_through(
    client: Stitchwork, spaces: Pair
) -> None:
    rows = inputs(spaces)
    outputs = run_onnx(client.export("x", "x", format="onnx"), rows)
    assert (outputs["translated"] == rows).all()
    assert np.flatnonzero(~outputs["defined"]).tolist() == [50]


@pytest.mark.parametrize("pair_of", [("x", "y"), ("x", "x")])
@pytest.mark.parametrize("bridge", ["exp", "ridge", "irp-completed"])
def test_documented_code_applies_a_safetensors_file(
    client: Stitchwork, spaces: Pair, pair_of: tuple[str, str], bridge: str, tmp_path: Path
) -> None:
    code = next(block for block in PAGE.read_text().split("```") if "def apply(" in block)
    namespace: dict[str, Any] = {}
    exec(code.removeprefix("python\n"), namespace)  # noqa: S102 the block that users copy
    path = tmp_path / "map.safetensors"
    path.write_bytes(client.export(*pair_of, bridge))
    rows = inputs(spaces)[:51]
    expected = client.translate(rows, *pair_of, bridge)
    assert_close(namespace["apply"](path, rows), expected)


def test_exported_map_and_head_classify_as_the_service_does(
    client: Stitchwork, spaces: Pair
) -> None:
    data = client.export("x", "y", head="h", format="onnx")
    outputs = run_onnx(data, spaces.x)
    labels = json.loads(
        {p.key: p.value for p in onnx.load_from_string(data).metadata_props}["labels"]
    )
    expected = client.classify("h", spaces.x, "x", top=2)
    scores = outputs["probabilities"]
    assert [labels[i] for i in scores.argmax(axis=1)] == [
        prediction["label"] for prediction in expected
    ]
    best = [prediction["score"] for prediction in expected]
    np.testing.assert_allclose(scores.max(axis=1), best, rtol=1e-3)


def test_exported_file_names_its_versions(
    http: httpx.Client, client: Stitchwork, spaces: Pair
) -> None:
    response = http.get("/spaces/x/translations/y")
    version = client.get("spaces", "y")["version"]
    header = json.loads(response.content[8 : 8 + int.from_bytes(response.content[:8], "little")])
    assert header["__metadata__"]["target_version"] == version
    assert response.headers["Stitchwork-Target"] == f"y@{version}"
    assert set(load(response.content)) >= {"landmarks", "weights", "source_mean", "target_mean"}
    onnx_file = http.get("/spaces/x/translations/y", headers={"Accept": "application/x-onnx"})
    assert onnx_file.headers["content-type"] == "application/x-onnx"
    assert properties(onnx_file.content)["target_version"] == version


def test_invalid_exports_return_errors(client: Stitchwork, spaces: Pair) -> None:
    with pytest.raises(UnknownResourceError, match="nothing-here"):
        client.export("x", "nothing-here")
    with pytest.raises(InvalidInputError, match="expected format onnx") as error:
        client.export("x", "y", head="h")
    assert isinstance(error.value, ServiceError)
    with pytest.raises(InvalidInputError, match="of space y"):
        client.export("y", "x", head="h", format="onnx")
    with pytest.raises(InvalidInputError, match="24 wide"):
        client.export("x", "y", "none")
