"""Maps into unit spaces against the maps without scaling."""

from dataclasses import replace

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.bridges import BRIDGES, BridgeName, FittedSpace, compose
from stitchwork.geometry.diagnostics.space_metrics import has_unit_rows
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.unit_map import UnitMap
from tests.support.latent_spaces import ArrayLibrary, make_spaces


@pytest.mark.parametrize("bridge", [bridge for bridge in BRIDGES if bridge != "none"])
def test_rows_of_a_unit_target_are_those_of_the_plain_map_over_their_norms(
    lib: ArrayLibrary, bridge: BridgeName
) -> None:
    w = make_spaces(60, 16, 20)
    source, target = (FittedSpace(Frame.from_anchors(a)) for a in (w.x_anchors, w.y_anchors))
    x = w.x.astype(np.float32)
    # The second has no direction: it becomes the direction of the target's mean.
    x[0] *= 1e30
    x[1] = w.x_anchors.mean(0)
    plain, unit = (
        compose(bridge, source, replace(target, unit=is_unit)).convert_arrays(lib.from_numpy)
        for is_unit in (False, True)
    )
    expected, expected_defined = map(lib.to_numpy, plain.apply(lib.from_numpy(x)))
    rows, defined = map(lib.to_numpy, unit.apply(lib.from_numpy(x)))
    assert rows.dtype == np.float32
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, expected / lengths, atol=1e-5)
    np.testing.assert_array_equal(defined, expected_defined)
    assert has_unit_rows(rows)
    assert isinstance(unit, UnitMap)
    assert (unit.source_width, unit.target_width) == (plain.source_width, plain.target_width)
    assert unit.nbytes == plain.nbytes


def test_bridge_none_into_a_unit_target_returns_rows_unchanged(lib: ArrayLibrary) -> None:
    w = make_spaces(30, 16, 20)
    space = FittedSpace(Frame.from_anchors(w.x_anchors), unit=True)
    x = lib.from_numpy(w.x.astype(np.float32))
    rows, _ = compose("none", space, space).convert_arrays(lib.from_numpy).apply(x)
    np.testing.assert_array_equal(lib.to_numpy(rows), lib.to_numpy(x))


def test_unit_map_of_no_rows_and_of_a_wrong_width(lib: ArrayLibrary) -> None:
    w = make_spaces(30, 16, 20)
    source = FittedSpace(Frame.from_anchors(w.x_anchors))
    target = FittedSpace(Frame.from_anchors(w.y_anchors), unit=True)
    unit = compose("ridge", source, target).convert_arrays(lib.from_numpy)
    rows, defined = unit.apply(lib.from_numpy(np.zeros((0, 16), np.float32)))
    assert (tuple(rows.shape), tuple(defined.shape)) == ((0, unit.target_width), (0,))
    with pytest.raises(InvalidInputError, match="shape"):
        unit.apply(lib.from_numpy(np.zeros((2, 3), np.float32)))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([1.0, 1.0], True), ([0.9995, 1.0005], True), ([1.0, 1.002], False), ([0.0, 1.0], False)],
)
def test_has_unit_rows_tolerates_a_thousandth(
    lib: ArrayLibrary, lengths: list[float], expected: bool
) -> None:
    rows = np.zeros((2, 3), np.float32)
    rows[:, 1] = lengths
    assert has_unit_rows(lib.from_numpy(rows)) is expected
