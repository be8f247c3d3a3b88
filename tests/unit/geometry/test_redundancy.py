"""Duplicates and redundant anchors against plain computations."""

import tracemalloc

import numpy as np
import pytest

from stitchwork.geometry.diagnostics.redundancy import (
    NEAR_DUPLICATE_COSINE,
    find_duplicates,
    redundant_anchors,
)
from stitchwork.geometry.frame import Frame
from tests.support.latent_spaces import ArrayLibrary, Floats, make_spaces, plain_unit, rotation


def anchors_with_duplicates() -> Floats:
    """Anchors of which 5 and 350 repeat 2, 9 repeats it but for float32, and 7 is close to 4."""
    anchors = make_spaces(400, 20, 5, latent=18).x_anchors
    rng = np.random.default_rng(0)
    anchors[[5, 350]] = anchors[2]
    anchors[9] = anchors[2] * (1 + 1e-7 * rng.normal(size=20))
    anchors[7] = anchors[4] + 0.02 * np.linalg.norm(anchors[4]) * rng.normal(size=20) / 20**0.5
    return anchors


def test_duplicates_are_grouped_under_their_first(lib: ArrayLibrary) -> None:
    result = find_duplicates(Frame.from_anchors(lib.from_numpy(anchors_with_duplicates())))
    assert result.exact == ((2, 5, 9, 350),)
    assert result.near == ((4, 7),)
    assert result.spare == [5, 7, 9, 350]


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_equal_those_of_the_whole_matrix(lib: ArrayLibrary, seed: int) -> None:
    anchors = make_spaces(300, 6, 5, latent=3, seed=seed).x_anchors
    unit = plain_unit(anchors, anchors.mean(0))
    leaders: list[int] = []
    groups: dict[int, list[int]] = {}
    for i in range(300):
        leader = next((j for j in leaders if unit[i] @ unit[j] >= NEAR_DUPLICATE_COSINE), i)
        groups.setdefault(leader, []).append(i)
        leaders += [i] if leader == i else []
    expected = sorted(tuple(g) for g in groups.values() if len(g) > 1)
    assert len(expected) > 20
    assert list(find_duplicates(Frame.from_anchors(lib.from_numpy(anchors))).near) == expected


def test_duplicates_ignore_rotation_scaling_and_translation(lib: ArrayLibrary) -> None:
    anchors = anchors_with_duplicates()
    moved = 7 * anchors @ rotation(20) + 3
    assert find_duplicates(Frame.from_anchors(lib.from_numpy(moved))) == find_duplicates(
        Frame.from_anchors(lib.from_numpy(anchors))
    )


def test_anchors_at_the_mean_are_duplicates_of_each_other(lib: ArrayLibrary) -> None:
    wide = make_spaces(30, 8, 5).x_anchors
    result = find_duplicates(
        Frame.from_anchors(lib.from_numpy(np.vstack([wide, -wide, np.zeros((3, 8))])))
    )
    assert result.exact == ((60, 61, 62),)
    assert not find_duplicates(
        Frame.from_anchors(lib.from_numpy(np.vstack([wide, -wide, np.zeros((1, 8))])))
    ).exact


def test_find_duplicates_allocates_no_matrix_of_all_pairs() -> None:
    k = 6000
    frame = Frame.from_anchors(make_spaces(k, 6, 5, latent=6).x_anchors)
    tracemalloc.start()
    find_duplicates(frame, near=0.999999)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < k * k / 2


def test_later_anchor_of_the_closest_pair_is_dropped_first(lib: ArrayLibrary) -> None:
    steps = redundant_anchors(Frame.from_anchors(lib.from_numpy(anchors_with_duplicates())), 4)
    assert [step.row for step in steps[:3]] == [350, 9, 5]
    assert steps[3].row == 7
    distances = [step.distance for step in steps]
    assert distances == sorted(distances)
    assert distances[2] < 1e-9 < distances[3] < 0.01


def test_redundant_anchors_equal_those_of_a_plain_search(lib: ArrayLibrary) -> None:
    anchors = make_spaces(40, 6, 5).x_anchors
    unit = plain_unit(anchors, anchors.mean(0))
    remaining = list(range(40))
    expected = []
    for _ in range(20):
        pairs = [(1 - unit[i] @ unit[j], -j) for i in remaining for j in remaining if i < j]
        index = -min(pairs)[1]
        expected.append(index)
        remaining.remove(index)
    dropped = redundant_anchors(Frame.from_anchors(lib.from_numpy(anchors)), 20)
    assert [candidate.row for candidate in dropped] == expected


def test_redundant_anchors_leave_two(lib: ArrayLibrary) -> None:
    frame = Frame.from_anchors(lib.from_numpy(make_spaces(6, 4, 5).x_anchors))
    assert len(redundant_anchors(frame, 99)) == 4
