"""A map that is read from its file translates as the map itself."""

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.export.map_file import read_map
from stitchwork.export.safetensors_export import map_to_safetensors
from stitchwork.geometry.bridges import BridgeName, FittedSpace, compose
from stitchwork.geometry.coverage import Coverage
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.maps import IdentityMap, Origin
from tests.support.latent_spaces import make_spaces


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("bridge", ["exp", "ridge", "irp"])
def test_map_read_from_its_file_translates_as_the_map_itself(
    bridge: BridgeName, unit: bool
) -> None:
    spaces = make_spaces(120, 16, 20)
    frame = Frame.from_anchors(spaces.x_anchors)
    target = FittedSpace(Frame.from_anchors(spaces.y_anchors), unit=unit)
    composed, coverage = compose(bridge, FittedSpace(frame), target), Coverage.from_frame(frame)
    file = read_map(map_to_safetensors(composed, {"bridge": bridge}, coverage))
    x = np.concatenate([spaces.x, 50 * np.random.default_rng(0).normal(size=(40, 16))])
    x = x.astype(np.float32)
    x[3], x[4] = frame.mean, np.nan
    expected, result = composed.apply(x), file.map.apply(x)
    np.testing.assert_allclose(result.rows, expected.rows, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result.defined, expected.defined)
    assert not result.defined[3:5].any()
    assert file.coverage is not None
    np.testing.assert_array_equal(file.coverage.covers(x), coverage.covers(x))
    assert 0 < coverage.covers(x).mean() < 1
    assert file.metadata["bridge"] == bridge


def test_file_of_an_identity_is_read() -> None:
    file = read_map(map_to_safetensors(IdentityMap(Origin.from_mean(np.zeros(6))), {}))
    rows = np.ones((2, 6), np.float32)
    np.testing.assert_array_equal(file.map.apply(rows).rows, rows)
    assert file.coverage is None


@pytest.mark.parametrize("data", [b"", b"no safetensors file at all", b"\0" * 8])
def test_bytes_of_another_file_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError, match="expected the safetensors file of a map"):
        read_map(data)
