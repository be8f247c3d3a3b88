"""Comparisons of new spaces with the others on their set, and what the records say of them."""

import threading

import numpy as np
import orjson
import pytest

from stitchwork.redis.client import RedisClient
from stitchwork.registry.anchor_comparison import AnchorComparison, compare_anchors
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.registry import Registry
from stitchwork.registry.space_checks import DUE, SpaceCheckThread
from stitchwork.resources import Floats, ShiftedRows, Space
from tests.support.waiting import wait_until
from tests.unit.geometry.test_row_shifts import latent_space

COUNT = 400


@pytest.fixture
def registry(registry_server: RedisClient) -> Registry:
    return Registry(registry_server, durable=False, stale_seconds=0.0)


def rows(seed: int) -> Floats:
    return latent_space(seed, 24 + seed, COUNT)


def register(registry: Registry, id_: str, anchors: Floats, ids: tuple[str, ...] = ()) -> Space:
    registry.declare_space(SpaceDeclaration(id_, "S", anchors=anchors, ids=ids or None))
    return read(registry, id_)


def read(registry: Registry, id_: str) -> Space:
    record = registry.spaces.get(id_).record
    assert record is not None
    return record


def test_first_space_of_a_set_gets_its_agreement_when_a_second_joins(registry: Registry) -> None:
    first = register(registry, "x", rows(1))
    assert (first.agreement, first.checks) == (None, None)
    assert registry.space_checks.run() == 1
    assert (read(registry, "x").agreement, read(registry, "x").checks) == (None, ())
    register(registry, "y", rows(2))
    assert registry.space_checks.run() == 1
    x, y = read(registry, "x"), read(registry, "y")
    assert x.checks is not None
    assert y.checks is not None
    (x_check,), (y_check,) = x.checks, y.checks
    assert (x_check.space, x_check.version) == ("y", y.version)
    assert (y_check.space, y_check.version) == ("x", x.version)
    assert x.agreement == x_check.agreement == y_check.agreement
    assert x_check.agreement > 0.5
    assert (x_check.anchors, x_check.shifts, x_check.misaligned) == (COUNT, (), ())
    assert (x.warnings, y.warnings) == ((), ())
    assert registry.space_checks.run() == 0


def test_shifted_rows_are_named_in_both_records(registry: Registry) -> None:
    register(registry, "x", rows(1))
    y = register(registry, "y", np.roll(rows(2), 1, axis=0))
    assert registry.space_checks.run() == 2
    for id_, other, shift, words in (("x", "y", 1, "later"), ("y", "x", -1, "earlier")):
        record = read(registry, id_)
        assert record.checks is not None
        (check,) = record.checks
        assert check.shifts == (ShiftedRows(first=0, last=COUNT - 1, shift=shift),)
        assert check.warning is not None
        assert check.warning == record.warnings[-1]
        sentence = f"those of space {other}: rows 0 to {COUNT - 1} fit 1 row {words}; was a row"
        assert sentence in check.warning
    # The correct rows take the place of the shifted ones: the warnings go.
    register(registry, "y", rows(2))
    assert read(registry, "y").checks is None
    assert registry.space_checks.run() == 1
    x = read(registry, "x")
    assert x.checks is not None
    assert [check.version for check in x.checks] == [read(registry, "y").version]
    assert read(registry, "y").version != y.version
    assert (x.warnings, read(registry, "y").warnings) == ((), ())


def test_swapped_rows_are_named_by_their_ids(registry: Registry) -> None:
    ids = tuple(f"doc-{i}" for i in range(COUNT))
    rng = np.random.default_rng(5)
    swapped = rng.choice(COUNT, 40, replace=False)
    order = np.arange(COUNT)
    order[swapped] = np.roll(swapped, 1)
    register(registry, "x", rows(1), ids)
    register(registry, "y", rows(2)[order], ids)
    registry.space_checks.run()
    y = read(registry, "y")
    assert y.checks is not None
    (check,) = y.checks
    names = set(check.misaligned)
    truth = {f"doc-{i}" for i in swapped}
    assert len(names & truth) >= 38
    assert len(names - truth) <= 2
    assert check.misaligned_count == len(names)
    assert check.warning is not None
    sentence = "of 400 anchors probably do not belong together with those of space x: 'doc-"
    assert sentence in check.warning
    assert check.warning.endswith(f" and {len(names) - 10} more")
    assert check.warning in y.warnings


def test_foreign_anchors_are_named_with_the_space(registry: Registry) -> None:
    register(registry, "x", rows(1))
    noise = np.random.default_rng(9).normal(size=(COUNT, 20)).astype(np.float32)
    declared = register(registry, "y", noise)
    assert declared.warnings[0].startswith("agreement with every other space on the set is near")
    registry.space_checks.run()
    for id_, other in (("x", "y"), ("y", "x")):
        (warning,) = read(registry, id_).warnings
        assert warning.startswith(f"agreement with space {other} is near zero (")


def test_comparisons_with_a_deleted_space_are_removed_from_the_records_of_others(
    registry: Registry,
) -> None:
    register(registry, "x", rows(1))
    register(registry, "y", np.roll(rows(2), 1, axis=0))
    register(registry, "z", rows(3))
    registry.space_checks.run()
    before = read(registry, "x")
    assert any("those of space y" in warning for warning in before.warnings)
    registry.spaces.delete("y")
    assert registry.space_checks.run() == 1
    x = read(registry, "x")
    assert x.checks is not None
    assert ([check.space for check in x.checks], x.warnings) == (["z"], ())
    assert (x.version, x.agreement) == (before.version, x.checks[0].agreement)
    registry.spaces.delete("z")
    registry.space_checks.run()
    alone = read(registry, "x")
    assert (alone.checks, alone.agreement) == ((), None)


def test_space_deleted_while_it_is_compared_is_not_named_in_the_other_record(
    registry: Registry,
) -> None:
    register(registry, "x", rows(1))
    registry.space_checks.run()
    register(registry, "y", rows(2))

    def delete_then_compare(x: Floats, y: Floats) -> AnchorComparison:
        registry.spaces.delete("x")
        return compare_anchors(x, y)

    registry.space_checks.run(delete_then_compare)
    assert (read(registry, "y").checks, read(registry, "y").agreement) == ((), None)


def test_each_check_is_made_by_one_process(registry: Registry) -> None:
    for seed in range(1, 7):
        register(registry, f"s{seed}", rows(seed))
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(registry.space_checks.run()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 6
    for seed in range(1, 7):
        checks = read(registry, f"s{seed}").checks
        assert checks is not None
        assert len(checks) == 5


def test_check_of_a_process_that_died_is_taken_again(
    registry: Registry, registry_server: RedisClient
) -> None:
    register(registry, "x", rows(1))
    later = registry_server.now_ms() + 3_600_000
    registry_server.redis.zadd(registry_server.key(DUE), {"x": later})
    assert registry.space_checks.run() == 0
    registry_server.redis.zadd(registry_server.key(DUE), {"x": registry_server.now_ms() - 1})
    assert registry.space_checks.run() == 1
    assert registry_server.redis.zcard(registry_server.key(DUE)) == 0


def test_thread_checks_when_it_is_woken_and_ends_when_it_is_stopped(registry: Registry) -> None:
    thread = SpaceCheckThread(registry.space_checks)
    thread.start()
    register(registry, "x", rows(1))
    register(registry, "y", rows(2))
    thread.wake()
    wait_until("both are compared", lambda: len(read(registry, "x").checks or ()) == 1)
    thread.stop()


def test_space_of_an_earlier_release_is_not_waited_for(
    registry: Registry, registry_server: RedisClient
) -> None:
    space = register(registry, "x", rows(1))
    fields = space.model_dump(exclude={"checks"})

    registry_server.redis.hset(
        "stitchwork:space:x", "record", orjson.dumps({"format": 3, **fields})
    )
    assert read(registry, "x").checks == ()
