"""Moves: the latest first, few enough, and interrupted once nothing is heard of them."""

import pytest

from stitchwork.errors import (
    IncompatibleFormatError,
    InsufficientScopeError,
    UnknownResourceError,
)
from stitchwork.redis.client import RedisClient
from stitchwork.registry.move_store import MoveStore
from stitchwork.resources import ApiKey, Scope
from stitchwork.resources.moves import MoveAssessment, MoveReport, MoveStatus
from tests.support.move_reports import REPORT

REPORTED = MoveReport(**REPORT)
FINISHED = REPORTED.model_copy(update={"status": "finished"})


def key_of(name: str, scope: Scope = Scope.EXPORT) -> ApiKey:
    return ApiKey(name=name, digest="0" * 64, scopes=(scope,))


def ids(store: MoveStore, limit: int = 100, before: int | None = None) -> list[str]:
    return [entry.id for entry in store.page(limit, before).entries]


def test_moves_are_listed_by_their_first_report_the_latest_first(
    registry_server: RedisClient,
) -> None:
    store = MoveStore(registry_server)
    assert store.page(10) == ([], None, [])
    for name in ("a", "b", "c", "d"):
        store.put_report(name, REPORTED)
    store.put_report("b", REPORTED.model_copy(update={"rows": 2, "status": "finished"}))
    assert ids(store) == ["d", "c", "b", "a"]
    first = store.page(3)
    assert first.cursor is not None
    assert ids(store, 3) == ["d", "c", "b"]
    # What is reported meanwhile moves no page.
    store.put_report("e", REPORTED)
    assert ids(store, 3, first.cursor) == ["a"]
    assert store.page(3, first.cursor).cursor is None
    entry = store.get("b")
    assert (entry.report.rows, entry.report.status) == (2, "finished")
    assert entry.created <= entry.updated


def test_moves_whose_last_report_is_the_oldest_are_removed(registry_server: RedisClient) -> None:
    store = MoveStore(registry_server, max_moves=3)
    for name in ("a", "b", "c"):
        store.put_report(name, REPORTED)
    store.put_report("a", REPORTED)
    store.put_report("d", REPORTED)
    assert ids(store) == ["d", "c", "a"]
    with pytest.raises(UnknownResourceError, match="no move b is known"):
        store.get("b")
    assert not registry_server.redis.exists(registry_server.key("move", "b"))


def test_moves_that_have_ended_are_removed_before_those_that_run(
    registry_server: RedisClient,
) -> None:
    store = MoveStore(registry_server, max_moves=3)
    store.put_report("runs", REPORTED)
    for name in ("a", "b", "c", "d"):
        store.put_report(name, FINISHED)
    assert ids(store) == ["d", "c", "runs"]
    # A running one counts as interrupted after a minute, and then goes like the others.
    silent = MoveStore(registry_server, max_moves=3, silence_seconds=-1)
    silent.put_report("runs", REPORTED)
    silent.put_report("e", REPORTED)
    assert "runs" not in ids(silent)


@pytest.mark.parametrize("report", [REPORTED, FINISHED], ids=["running", "finished"])
def test_many_moves_of_one_key_remove_none_of_another(
    registry_server: RedisClient, report: MoveReport
) -> None:
    store = MoveStore(registry_server, max_moves=6)
    for name in ("a", "b"):
        store.put_report(name, FINISHED, key=key_of("first"))
    for number in range(10):
        store.put_report(f"flood-{number}", report, key=key_of("second"))
    assert ids(store) == [*(f"flood-{number}" for number in (9, 8, 7, 6)), "b", "a"]
    # The key that had none yet gets its place too.
    store.put_report("c", FINISHED, key=key_of("third"))
    assert ids(store) == ["c", *(f"flood-{number}" for number in (9, 8, 7)), "b", "a"]
    stored = {raw.decode() for raw in registry_server.redis.scan_iter("*move:*")}
    assert stored == {registry_server.key("move", name) for name in ids(store)}


def test_move_of_another_key_is_changed_by_an_admin_only(registry_server: RedisClient) -> None:
    store, assessment = MoveStore(registry_server), MoveAssessment(action="translate", sample=9)
    first, second, admin = key_of("first"), key_of("second"), key_of("ops", Scope.ADMIN)
    store.put_report("a", REPORTED, key=first)
    with pytest.raises(InsufficientScopeError, match=r"another key: .* second has export"):
        store.put_report("a", FINISHED, key=second)
    with pytest.raises(InsufficientScopeError, match="another key"):
        store.put_assessment("a", assessment, key=second)
    entry = store.get("a")
    assert (entry.report.status, entry.assessment) == ("running", None)
    store.put_report("a", FINISHED, key=admin)
    store.put_assessment("a", assessment, key=admin)
    store.put_report("a", REPORTED, key=first)
    store.put_assessment("a", assessment, key=first)
    # Where no key is required, there is nobody to protect it from.
    store.put_report("a", FINISHED)
    with pytest.raises(InsufficientScopeError):
        store.put_report("a", REPORTED, key=second)


def test_move_that_was_reported_without_a_key_is_of_the_first_key(
    registry_server: RedisClient,
) -> None:
    store = MoveStore(registry_server, max_moves=2)
    store.put_report("a", REPORTED)
    store.put_report("a", REPORTED, key=key_of("first"))
    with pytest.raises(InsufficientScopeError):
        store.put_report("a", REPORTED, key=key_of("second"))
    for name in ("b", "c"):
        store.put_report(name, FINISHED)
    assert ids(store) == ["c", "a"]


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_report_that_arrives_late_changes_nothing(
    registry_server: RedisClient, status: MoveStatus
) -> None:
    store = MoveStore(registry_server)
    ended = REPORTED.model_copy(update={"status": status, "rows": 2})

    def current() -> tuple[str, int]:
        report = store.get("a").report
        return report.status, report.rows

    store.put_report("a", REPORTED, run="run-1")
    store.put_report("a", ended, run="run-1")
    store.put_report("a", REPORTED, run="run-1")
    assert current() == (status, 2), "a running report of a run that has ended"
    store.put_report("a", REPORTED, run="run-2")
    assert current() == ("running", 1), "the same command goes on"
    store.put_report("a", ended, run="run-1")
    assert current() == ("running", 1), "the end of the run before"
    store.put_report("a", FINISHED, run="run-2")
    for late in ("run-1", "run-2"):
        store.put_report("a", REPORTED, run=late)
        assert current() == ("finished", 1)
    # A run whose id is a part of an earlier one's is another.
    store.put_report("a", REPORTED, run="run")
    assert current() == ("running", 1)


def test_running_move_without_reports_counts_as_interrupted(registry_server: RedisClient) -> None:
    store = MoveStore(registry_server)
    silent = MoveStore(registry_server, silence_seconds=-1)
    store.put_report("running", REPORTED)
    store.put_report("finished", REPORTED.model_copy(update={"status": "finished"}))
    assert store.get("running").report.status == "running"
    assert silent.get("running").report.status == "interrupted"
    assert silent.get("finished").report.status == "finished"
    assert [entry.report.status for entry in silent.page(2).entries] == ["finished", "interrupted"]


def test_assessment_stays_with_its_move(registry_server: RedisClient) -> None:
    store, assessment = MoveStore(registry_server), MoveAssessment(action="translate", sample=9)
    with pytest.raises(UnknownResourceError, match="no move a is known"):
        store.put_assessment("a", assessment)
    store.put_report("a", REPORTED)
    assert store.get("a").assessment is None
    store.put_assessment("a", assessment)
    store.put_report("a", REPORTED)
    assert store.get("a").assessment == assessment


@pytest.mark.parametrize(
    "stored", [b'{"format":999}', b"garbage", b'{"format":7}'], ids=["later", "garbage", "other"]
)
def test_unreadable_move_is_named_beside_the_others(
    registry_server: RedisClient, stored: bytes
) -> None:
    store = MoveStore(registry_server)
    for name in ("a", "b", "c"):
        store.put_report(name, REPORTED)
    registry_server.redis.hset(registry_server.key("move", "a"), "report", stored)
    registry_server.redis.delete(registry_server.key("move", "b"))
    registry_server.redis.set(registry_server.key("move", "b"), "of another type")
    page = store.page(10)
    assert ([entry.id for entry in page.entries], page.unreadable) == (["c"], ["b", "a"])
    for name in ("a", "b"):
        with pytest.raises(IncompatibleFormatError, match=f"move {name}"):
            store.get(name)
