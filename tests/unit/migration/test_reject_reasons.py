"""Rows that are not translated are counted by few kinds of reasons."""

from stitchwork.migration.reject_reasons import OTHER, reason_kind, sum_reasons
from stitchwork.resources.moves import MAX_REASON, MAX_REASONS


def test_details_of_a_row_are_no_part_of_the_kind() -> None:
    assert reason_kind("no id; it is row 7 of the store, counted from 0") == "no id"
    assert reason_kind("no vector") == "no vector"
    assert len(reason_kind("x" * 1000)) == MAX_REASON


def test_rare_kinds_of_many_are_one_sum() -> None:
    first = {f"kind {i}": 100 - i for i in range(MAX_REASONS)}
    assert sum_reasons([first]) == first
    sums = sum_reasons([first, {"kind 0": 1, "another": 3}])
    assert len(sums) == MAX_REASONS
    assert next(iter(sums.items())) == ("kind 0", 101)
    assert sums[OTHER] == 3 + 100 - (MAX_REASONS - 1)
    again = sum_reasons([sums, {"yet another": 2}])
    assert (len(again), again[OTHER]) == (MAX_REASONS, sums[OTHER] + 2)
    assert sum(again.values()) == sum(first.values()) + 6
