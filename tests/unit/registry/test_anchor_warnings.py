"""Warnings about the anchors of a space."""

import numpy as np
import pytest

from stitchwork.geometry import coverage
from stitchwork.geometry.frame import Frame
from stitchwork.registry.declarations import SpaceDeclaration, space_record
from stitchwork.resources import AnchorSet
from stitchwork.resources.anchor_count import MIN_ANCHORS


def warnings_of(count: int, width: int, rank: int) -> tuple[str, ...]:
    """The warnings of a space whose anchors span `rank` directions."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, rank)) @ rng.normal(size=(rank, width))
    anchors = rows.astype(np.float32)
    anchor_set = AnchorSet(id="set", version="1", modality="vector", size=count)
    declared = SpaceDeclaration("space", "set", None, anchors)
    frame = Frame.from_anchors(anchors)
    return space_record(declared, anchor_set, anchors, frame, None, "1").warnings


@pytest.mark.parametrize(
    ("count", "width", "rank"), [(400, 384, 384), (400, 384, 381), (400, 512, 512), (64, 384, 384)]
)
def test_anchors_that_span_nearly_all_that_they_can_have_no_warning(
    count: int, width: int, rank: int
) -> None:
    assert warnings_of(count, width, rank) == ()


def test_anchors_that_span_few_directions_have_a_warning_with_both_numbers() -> None:
    (warning,) = warnings_of(400, 384, 40)
    assert "span only 40 of the 384 directions that 400 anchors of width 384 can span" in warning


def test_few_anchors_have_a_warning_with_their_number_and_what_to_do() -> None:
    assert MIN_ANCHORS == coverage.MIN_ANCHORS, "the sentence says that coverage is not computed"
    (warning,) = warnings_of(MIN_ANCHORS - 1, 384, 384)
    assert warning.startswith(f"{MIN_ANCHORS - 1} anchors are few: ")
    assert "Register the spaces on a set of 300 anchors or more" in warning
