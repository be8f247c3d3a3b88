"""Deadlines are at least what they say, and at most ten times that."""

from tests.support import machine


def test_deadline_scales_with_the_measured_slowdown() -> None:
    slowdown = machine.slowdown()
    assert 1 <= slowdown <= machine.MAX_SLOWDOWN
    assert machine.deadline(30.0) in (30.0 * slowdown, 30.0 * machine.slowdown())


def test_slowdown_never_falls_within_a_run() -> None:
    before = machine.slowdown()
    assert machine.slowdown() >= before
