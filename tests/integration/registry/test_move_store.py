"""Moves: the latest first, few enough, and interrupted once nothing is heard of them."""

import pytest

from stitchwork.errors import IncompatibleFormatError, UnknownResourceError
from stitchwork.redis.client import RedisClient
from stitchwork.registry.move_store import MoveStore
from stitchwork.resources.moves import MoveAssessment, MoveReport
from tests.support.move_reports import REPORT

REPORTED = MoveReport(**REPORT)


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
