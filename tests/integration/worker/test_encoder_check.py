"""The encoder check: encoders that differ from the registered anchors are refused."""

import numpy as np
import pytest
import torch

from stitchwork.errors import ConflictError, ErrorCode, InputTooLargeError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.registry import Registry
from stitchwork.resources import BridgeParameters, Floats, Space
from stitchwork.worker.encoder_check import (
    CHECKED_ANCHORS,
    RECHECK_SECONDS,
    TOLERANCE,
    EncoderChecker,
)
from tests.integration.worker.conftest import (
    DIM,
    SPEC,
    TEXTS,
    TableEncoder,
    embeddings,
    loaded,
)

ROWS = embeddings(0)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class OutOfMemoryEncoder(TableEncoder):
    """An encoder that runs out of memory."""

    def forward(self, inputs: object) -> torch.Tensor:
        raise InputTooLargeError("too large", code=ErrorCode.OUT_OF_MEMORY)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checker(registry: Registry, encoders: EncoderCache, clock: Clock) -> EncoderChecker:
    return EncoderChecker(registry, encoders, clock)


@pytest.fixture
def space(registry: Registry) -> Space:
    """The space `x` with `ROWS` as anchors."""
    return register(registry, "S", ROWS)


def register(registry: Registry, anchor_set: str, anchors: Floats) -> Space:
    declaration = SpaceDeclaration("x", anchor_set, SPEC, anchors, None, BridgeParameters())
    _, entry = registry.declare_space(declaration)
    assert entry.record is not None
    return entry.record


def test_an_encoder_that_reproduces_the_anchors_is_checked_once(
    checker: EncoderChecker, space: Space
) -> None:
    encoder = TableEncoder(ROWS + np.float32(1e-3))
    same = loaded(encoder)
    checker.check(space, same)
    checker.check(space, same)
    assert encoder.embedded == CHECKED_ANCHORS
    assert checker.refused() == {}


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(embeddings(1), id="another-model"),
        pytest.param(np.roll(ROWS, 1, axis=0), id="shifted-rows"),
        pytest.param(2 * ROWS, id="another-scale"),
        pytest.param(ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True) * 3, id="normalized"),
    ],
)
def test_an_encoder_whose_rows_differ_from_the_anchors_is_refused(
    checker: EncoderChecker, space: Space, rows: Floats
) -> None:
    encoder = TableEncoder(rows.astype(np.float32))
    with pytest.raises(ConflictError, match="no longer reproduces space x") as raised:
        checker.check(space, loaded(encoder))
    assert raised.value.code == ErrorCode.ENCODER_MISMATCH
    assert f"within {TOLERANCE} of the space's scale" in raised.value.message
    assert checker.refused() == {"x": raised.value.message}


def test_an_encoder_of_another_width_is_refused_without_embedding(
    checker: EncoderChecker, space: Space
) -> None:
    encoder = TableEncoder(embeddings(0, DIM + 1))
    with pytest.raises(ConflictError, match=f"of {DIM} dimensions, got {DIM + 1}"):
        checker.check(space, loaded(encoder))
    assert encoder.embedded == 0


def test_an_encoder_that_cannot_embed_the_anchors_is_refused(
    checker: EncoderChecker, space: Space
) -> None:
    encoder = TableEncoder(ROWS[:1], TEXTS[:1])
    with pytest.raises(ConflictError, match="cannot embed the anchors: unknown text"):
        checker.check(space, loaded(encoder))


def test_running_out_of_memory_is_not_a_mismatch(checker: EncoderChecker, space: Space) -> None:
    with pytest.raises(InputTooLargeError):
        checker.check(space, loaded(OutOfMemoryEncoder(ROWS)))
    assert checker.refused() == {}


def test_a_refused_encoder_is_checked_again_after_a_while(
    checker: EncoderChecker, space: Space, clock: Clock
) -> None:
    wrong = TableEncoder(embeddings(1))
    with pytest.raises(ConflictError) as first:
        checker.check(space, loaded(wrong))
    repaired = TableEncoder(ROWS)
    with pytest.raises(ConflictError) as second:
        checker.check(space, loaded(repaired))
    assert second.value is first.value
    assert repaired.embedded == 0
    clock.seconds = RECHECK_SECONDS
    checker.check(space, loaded(repaired))
    assert repaired.embedded == CHECKED_ANCHORS
    assert checker.refused() == {}


def test_a_reloaded_encoder_is_checked_again(checker: EncoderChecker, space: Space) -> None:
    checker.check(space, loaded(TableEncoder(ROWS)))
    with pytest.raises(ConflictError, match="no longer reproduces"):
        checker.check(space, loaded(TableEncoder(embeddings(1))))


def test_a_space_without_items_passes_unchecked(
    registry: Registry, checker: EncoderChecker
) -> None:
    registry.declare_anchor_set("vectors", "text", size=len(TEXTS))
    encoder = TableEncoder(embeddings(1))
    checker.check(register(registry, "vectors", ROWS), loaded(encoder))
    assert encoder.embedded == 0
