"""ONNX files of maps and heads without a service."""

import json

import numpy as np
import onnx
import pytest

from stitchwork.export.onnx_export import map_to_onnx
from stitchwork.export.safetensors_export import map_to_safetensors
from stitchwork.geometry.bridges import BridgeName, FittedSpace, compose
from stitchwork.geometry.classifier import mlp
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.head_layers import ACTIVATIONS
from stitchwork.geometry.maps import IdentityMap, Origin
from tests.support.latent_spaces import make_spaces
from tests.support.onnx_models import run_onnx


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_exported_head_has_its_activation(activation: str) -> None:
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(8, 6)), rng.normal(size=8)), (rng.normal(size=(3, 8)), np.zeros(3))]
    head = mlp([(w.astype(np.float32), b.astype(np.float32)) for w, b in layers], activation)
    rows = rng.normal(size=(20, 6)).astype(np.float32)
    outputs = run_onnx(map_to_onnx(IdentityMap(Origin.from_mean(np.zeros(6))), {}, head), rows)
    np.testing.assert_allclose(outputs["logits"], head.logits(rows), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["probabilities"], head.scores(rows), rtol=1e-4, atol=1e-6)


def test_onnx_file_has_the_metadata_and_the_kind_of_map() -> None:
    data = map_to_onnx(IdentityMap(Origin.from_mean(np.zeros(6))), {"bridge": "none"})
    properties = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    assert properties == {
        "format": "stitchwork-translation/2",
        "kind": "identity",
        "bridge": "none",
    }


@pytest.mark.parametrize("bridge", ["exp", "ridge"])
def test_exported_map_of_a_unit_space_has_unit_rows_and_a_format_of_its_own(
    bridge: BridgeName,
) -> None:
    w = make_spaces(60, 16, 20)
    source = FittedSpace(Frame.from_anchors(w.x_anchors))
    unit = compose(bridge, source, FittedSpace(Frame.from_anchors(w.y_anchors), unit=True))
    x = w.x.astype(np.float32)
    x[3] = np.nan
    data = map_to_onnx(unit, {"bridge": bridge})
    rows, defined = unit.apply(x)
    outputs = run_onnx(data, x)
    np.testing.assert_allclose(outputs["translated"], rows, atol=1e-5)
    np.testing.assert_array_equal(outputs["defined"], defined)
    properties = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    metadata = read_metadata(map_to_safetensors(unit, {"bridge": bridge}))
    for texts in (properties, metadata):
        assert (texts["format"], texts["unit"]) == ("stitchwork-translation/3", "true")


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata
