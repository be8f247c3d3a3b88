"""Which changes of a space its heads forbid."""

from typing import Any

import pytest

from stitchwork.errors import ResourceInUseError
from stitchwork.registry.entries import Entry
from stitchwork.registry.transitions import check_heads
from stitchwork.resources import ImageEncoder, Space

DECLARED = ImageEncoder(model="resnet18")
RESOLVED = {
    "revision": "0" * 40,
    "input_size": 224,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 0.95,
    "interpolation": "bicubic",
    "in_chans": 3,
}


def space_with_a_head() -> Entry[Space]:
    """A space whose encoder was resolved by a worker."""
    record = Space(
        id="x",
        version="1",
        anchor_set="S",
        anchor_set_version="1",
        dim=512,
        size=10,
        encoder=DECLARED.model_copy(update=RESOLVED),
        rank=10,
        condition_number=1.0,
        norm_mean=1.0,
        norm_std=0.0,
    )
    return Entry("x", record, dependents=1)


def test_the_same_declaration_is_accepted_after_it_was_resolved() -> None:
    check_heads(space_with_a_head(), DECLARED, None)


@pytest.mark.parametrize(
    "change",
    [{"model": "resnet34"}, {"revision": "main"}, {"crop_pct": 0.5}, {"mean": (0.1, 0.2, 0.3)}],
)
def test_another_encoder_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ResourceInUseError, match="1 heads live in space x"):
        check_heads(space_with_a_head(), DECLARED.model_copy(update=change), None)
