"""The encoder check: encoders that differ from the registered anchors are refused."""

import weakref

import numpy as np
import pytest
import torch

from stitchwork.errors import ConflictError, ErrorCode, InputTooLargeError
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.entries import Outcome
from stitchwork.registry.registration_parts import save_part
from stitchwork.registry.registry import Registry
from stitchwork.registry.sent_anchors import TOLERANCE
from stitchwork.resources import BridgeParameters, Floats, Space
from stitchwork.worker.encoder_check import (
    CHECKED_ANCHORS,
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


class OutOfMemoryEncoder(TableEncoder):
    """An encoder that runs out of memory."""

    def forward(self, inputs: object) -> torch.Tensor:
        raise InputTooLargeError("too large", code=ErrorCode.OUT_OF_MEMORY)


@pytest.fixture
def checker(registry: Registry) -> EncoderChecker:
    return EncoderChecker(registry)


@pytest.fixture
def space(registry: Registry) -> Space:
    """The space `x` with `ROWS` as anchors."""
    return register(registry, "S", ROWS)


def register(registry: Registry, anchor_set: str, anchors: Floats) -> Space:
    declaration = SpaceDeclaration("x", anchor_set, SPEC, anchors, None, BridgeParameters())
    outcome, entry = registry.declare_space(declaration)
    if outcome is Outcome.ACCEPTED and entry.registration:
        # What a worker does, with an encoder that gives these anchors and has no files.
        update = {"done": len(anchors), "files_digest": None}
        advanced = entry.registration.model_copy(update=update)
        assert save_part(registry.spaces, entry.registration, advanced, {"rows": anchors})
        _, entry = registry.complete_space(advanced)
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


def test_a_refused_encoder_is_not_compared_again_until_it_is_loaded_anew(
    checker: EncoderChecker, space: Space
) -> None:
    wrong = TableEncoder(embeddings(1))
    refused = loaded(wrong)
    with pytest.raises(ConflictError) as first:
        checker.check(space, refused)
    with pytest.raises(ConflictError) as second:
        checker.check(space, refused)
    assert second.value is first.value
    assert wrong.embedded == CHECKED_ANCHORS
    repaired = TableEncoder(ROWS)
    checker.check(space, loaded(repaired))
    assert repaired.embedded == CHECKED_ANCHORS
    assert checker.refused() == {}


def test_the_result_of_a_check_does_not_keep_an_encoder_in_memory(
    checker: EncoderChecker, space: Space
) -> None:
    checked = loaded(TableEncoder(ROWS))
    reference = weakref.ref(checked)
    checker.check(space, checked)
    del checked
    assert reference() is None


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


def test_the_first_files_that_reproduce_sent_anchors_are_bound_to_the_space(
    registry: Registry, checker: EncoderChecker, space: Space
) -> None:
    assert space.files_digest is None
    encoder = TableEncoder(ROWS)
    first = loaded(encoder, "a")
    checker.check(space, first)
    (bound,), _ = registry.spaces.ready("x")
    assert (bound.files_digest, bound.version) == ("a", space.version)
    checker.check(bound, first)
    checker.check(space, first)
    assert encoder.embedded == CHECKED_ANCHORS, "it is compared once"
    with pytest.raises(ConflictError, match="expected files of digest a, got b"):
        EncoderChecker(registry).check(space, loaded(TableEncoder(ROWS), "b"))


def test_files_that_do_not_reproduce_the_anchors_are_not_bound(
    registry: Registry, checker: EncoderChecker, space: Space
) -> None:
    with pytest.raises(ConflictError, match="registered rows"):
        checker.check(space, loaded(TableEncoder(embeddings(1)), "b"))
    (record,), _ = registry.spaces.ready("x")
    assert record.files_digest is None
    checker.check(space, loaded(TableEncoder(ROWS), "a"))


def test_other_files_are_refused_though_their_rows_are_equal(
    registry: Registry, checker: EncoderChecker, space: Space
) -> None:
    checker.check(space, loaded(TableEncoder(ROWS), "a"))
    (bound,), _ = registry.spaces.ready("x")
    encoder = TableEncoder(ROWS)
    with pytest.raises(ConflictError) as raised:
        checker.check(bound, loaded(encoder, "b", "model.safetensors was changed"))
    assert raised.value.code == ErrorCode.ENCODER_MISMATCH
    assert "expected files of digest a, got b" in raised.value.message
    assert "model.safetensors was changed" in raised.value.message
    assert encoder.embedded == 0


def test_equal_files_with_other_rows_are_refused_and_libraries_are_named_as_the_cause(
    registry: Registry, checker: EncoderChecker, space: Space
) -> None:
    checker.check(space, loaded(TableEncoder(ROWS), "a"))
    (bound,), _ = registry.spaces.ready("x")
    with pytest.raises(ConflictError, match="run the library versions") as raised:
        checker.check(bound, loaded(TableEncoder(embeddings(1)), "a"))
    assert "registered rows, got" in raised.value.message


def test_files_of_a_space_without_items_are_bound_and_others_refused(
    registry: Registry, checker: EncoderChecker
) -> None:
    registry.declare_anchor_set("vectors", "text", size=len(TEXTS))
    space = register(registry, "vectors", ROWS)
    checker.check(space, loaded(TableEncoder(embeddings(1)), "a"))
    with pytest.raises(ConflictError, match="expected files of digest a, got b"):
        EncoderChecker(registry).check(space, loaded(TableEncoder(embeddings(1)), "b"))


def test_sending_the_same_anchors_again_lets_the_files_be_bound_anew(
    registry: Registry, checker: EncoderChecker, space: Space
) -> None:
    checker.check(space, loaded(TableEncoder(ROWS), "a"))
    other = loaded(TableEncoder(ROWS), "b")
    (bound,), _ = registry.spaces.ready("x")
    with pytest.raises(ConflictError, match="register the space again"):
        checker.check(bound, other)
    assert checker.refused().keys() == {"x"}
    again = register(registry, "S", ROWS)
    assert (again.version, again.files_digest) == (space.version, None)
    checker.check(again, other)
    (record,), _ = registry.spaces.ready("x")
    assert record.files_digest == "b"
    assert checker.refused() == {}


def test_a_space_that_was_deleted_is_no_longer_listed_as_refused(
    registry: Registry, checker: EncoderChecker, space: Space
) -> None:
    with pytest.raises(ConflictError):
        checker.check(space, loaded(TableEncoder(embeddings(1))))
    assert checker.refused().keys() == {"x"}
    registry.spaces.delete("x")
    assert checker.refused() == {}
