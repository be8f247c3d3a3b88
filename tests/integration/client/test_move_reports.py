"""Moves report themselves to the service, which lists them while they run and afterwards."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stitchwork.cli.main import main
from stitchwork.client import Stitchwork
from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration import MoveReporter, OfflineMap, move, open_store
from stitchwork.migration.advice import StoreFacts
from stitchwork.migration.reported_moves import ReportedMove, report_assessment
from stitchwork.migration.store_assessment import StoreAssessment
from tests.conftest import Pair
from tests.support import machine
from tests.support.http_responder import Response, http_responder
from tests.support.waiting import wait_until

ROWS = 60
BLOCK = 20


@pytest.fixture
def store(tmp_path: Path, pair: Pair) -> Path:
    """A store of 60 rows, of which one has no vector and one is all zeros."""
    rows: list[Any] = np.resize(pair.x, (ROWS, pair.x.shape[1])).tolist()
    rows[3] = None
    rows[5] = [0.0] * len(rows[4])
    path = tmp_path / "<script>.parquet"
    ids = [f"doc-{i}" for i in range(ROWS)]
    pq.write_table(pa.table({"id": ids, "embedding": rows}), path)
    return path


def migrate(url: str, source: Path, target: Path, *options: str) -> int:
    words = [str(source), str(target), "--from", "x", "--to", "y", "--url", url, "--json"]
    return main(["migrate", *words, *options])


def moves_to(client: Stitchwork, target: Path) -> list[dict[str, Any]]:
    return [record for record in client.moves() if record["target"] == str(target)]


@contextmanager
def reported(
    client: Stitchwork, source: Path, target: Path, seconds: float = 0.02
) -> Iterator[MoveReporter]:
    """A context in which a move is reported often."""
    folder = Path(f"{target}.migration")
    with MoveReporter(
        client,
        str(source),
        str(target),
        folder,
        seconds=seconds,
        end_seconds=machine.deadline(30),
    ) as reporter:
        yield reporter


def run(client: Stitchwork, source: Path, target: Path, progress: Any) -> Any:
    offline_map = OfflineMap.fetch(client, "x", "y")
    with open_store(str(source)) as rows, open_store(str(target)) as moved:
        folder = Path(f"{target}.migration")
        return move(rows, moved, offline_map, folder, block_rows=BLOCK, progress=progress)


def test_finished_move_is_listed_with_the_figures_of_its_command(
    client: Stitchwork, url: str, store: Path, tmp_path: Path, capfd: Any
) -> None:
    target = tmp_path / "moved.parquet"
    assert migrate(url, store, target) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["warnings"] == []
    (record,) = moves_to(client, target)
    same = ["source", "target", "versions", "rows", "written", "rejected", "re_embedded"]
    same += ["uncovered", "mismatched", "warnings"]
    assert {name: record[name] for name in same} == {name: result[name] for name in same}
    assert (record["status"], record["engine"], record["shard"]) == ("finished", "local", None)
    assert (record["rows"], record["total"], record["rejected"]) == (ROWS, ROWS, 2)
    assert record["reasons"] == {"no vector": 1, "all its numbers are zero": 1}
    assert record["rows_per_second"] > 0
    assert client.move(record["id"]) == record
    # The command that finds nothing to move changes nothing.
    assert migrate(url, store, target) == 0
    assert moves_to(client, target) == [record]
    assert main(["moves", "--url", url]) == 0
    line = next(text for text in capfd.readouterr().out.splitlines() if str(target) in text)
    assert "finished" in line


def test_running_move_is_listed_and_goes_on_under_its_id_after_an_interruption(
    client: Stitchwork, store: Path, tmp_path: Path
) -> None:
    target = tmp_path / "moved.parquet"

    def has_report(rows: int) -> bool:
        records = moves_to(client, target)
        return bool(records) and (records[0]["status"], records[0]["rows"]) == ("running", rows)

    def stop(done: int, total: int) -> None:
        reporter.progress(done, total)
        wait_until(f"{done} rows are listed", lambda: has_report(done))
        if done == 2 * BLOCK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), reported(client, store, target) as reporter:
        run(client, store, target, stop)
    (record,) = moves_to(client, target)
    assert (record["status"], record["rows"], record["total"]) == ("interrupted", 2 * BLOCK, ROWS)
    with reported(client, store, target) as reporter:
        reporter.add_results([run(client, store, target, reporter.progress)])
    (again,) = moves_to(client, target)
    assert (again["id"], again["created"]) == (record["id"], record["created"])
    assert (again["status"], again["rows"], again["rejected"]) == ("finished", ROWS, 2)
    assert again["reasons"] == {"no vector": 1, "all its numbers are zero": 1}


@pytest.mark.parametrize("blocks", [0, 1])
def test_failed_move_is_listed_with_its_reason(
    client: Stitchwork, store: Path, tmp_path: Path, blocks: int
) -> None:
    target = tmp_path / "moved.parquet"

    def fail(done: int, total: int) -> None:
        reporter.progress(done, total)
        if done == blocks * BLOCK:
            wait_until("it is listed", lambda: moves_to(client, target))
            raise ConflictError("the disk is <b>full</b>")

    with pytest.raises(ConflictError), reported(client, store, target) as reporter:
        run(client, store, target, fail)
    (record,) = moves_to(client, target)
    assert (record["status"], record["reason"]) == ("failed", "the disk is <b>full</b>")
    assert record["rows"] == blocks * BLOCK


def test_last_report_that_did_not_arrive_is_sent_by_the_same_command(
    client: Stitchwork, url: str, store: Path, tmp_path: Path, capfd: Any
) -> None:
    target = tmp_path / "moved.parquet"
    run(client, store, target, lambda done, total: None)
    assert moves_to(client, target) == []
    # None of its reports had arrived.
    assert migrate(url, store, target, "--block-rows", str(BLOCK)) == 0
    (record,) = moves_to(client, target)
    assert (record["status"], record["rows"]) == ("finished", ROWS)
    # It was listed before its end.
    move_id = json.loads((tmp_path / "moved.parquet.migration/checkpoint.json").read_text())["id"]
    versions = json.loads(capfd.readouterr().out)["versions"]
    fields = {"source": str(store), "target": str(target), "versions": versions}
    client.report_move(move_id, fields | {"status": "running", "rows": 1, "total": 9, "written": 1})
    assert migrate(url, store, target, "--block-rows", str(BLOCK)) == 0
    (record,) = moves_to(client, target)
    assert (record["id"], record["status"], record["rows"]) == (move_id, "finished", ROWS)
    assert record["rows_per_second"] is None


def test_shards_are_listed_each(
    client: Stitchwork, url: str, store: Path, tmp_path: Path, capfd: Any
) -> None:
    (tmp_path / "old").mkdir()
    for number in range(3):
        (tmp_path / f"old/{number}.parquet").write_bytes(store.read_bytes())
    target = tmp_path / "new"
    for index in range(2):
        assert migrate(url, tmp_path / "old", target, "--shard", f"{index}/2") == 0
    second, first = moves_to(client, target)
    assert (first["shard"], second["shard"]) == ("0/2", "1/2")
    assert (first["rows"], first["total"], second["rows"]) == (2 * ROWS, 2 * ROWS, ROWS)
    assert first["reasons"] == {"no vector": 2, "all its numbers are zero": 2}
    assert first["id"].removesuffix("-0") == second["id"].removesuffix("-1")
    assert {record["source"] for record in (first, second)} == {str(tmp_path / "old")}


def test_move_without_a_service_ends_with_a_warning(
    client: Stitchwork, store: Path, tmp_path: Path
) -> None:
    target = tmp_path / "moved.parquet"
    with (
        Stitchwork("http://127.0.0.1:1") as nowhere,
        reported(nowhere, store, target) as reporter,
    ):
        assert run(client, store, target, reporter.progress).rows == ROWS
    assert "does not list this move: http://127.0.0.1:1 cannot be reached" in str(reporter.warning)


def test_service_that_lists_no_moves_gets_one_report(
    client: Stitchwork, store: Path, tmp_path: Path
) -> None:
    target, requests = tmp_path / "moved.parquet", list[str]()

    def refuse(method: str, path: str, _: bytes) -> Response:
        requests.append(f"{method} {path.rpartition('/')[0]}")
        return Response(b'{"code": "unknown-path", "detail": "no such path"}', 404)

    with (
        http_responder(refuse) as address,
        Stitchwork(f"http://{address}") as earlier,
        reported(earlier, store, target) as reporter,
    ):

        def wait(done: int, total: int) -> None:
            reporter.progress(done, total)
            wait_until("it is refused", lambda: reporter.warning is not None)

        assert run(client, store, target, wait).rows == ROWS
    assert requests == ["PUT /moves"]
    assert reporter.warning == "the service does not list this move: no such path"


def test_reports_of_other_fields_are_refused_by_their_names(url: str) -> None:
    fields = {"status": "running", "source": "a", "target": "b", "rows": 1, "total": 1}
    versions = dict.fromkeys(("source", "source_version", "target", "target_version"), "x")
    report = {**fields, "written": 1, "versions": {**versions, "bridge": "ridge"}}
    for changes, pointer in (
        ({"rows": "1"}, "/rows"),
        ({"status": "done"}, "/status"),
        ({"versions": versions}, "/versions/bridge"),
        ({"source": "postgresql://me:secret@host/db?table=t"}, "/source"),
        ({"more": 1}, "/more"),
    ):
        response = httpx.put(f"{url}/moves/refused", json=report | changes)
        problem = response.json()
        assert (response.status_code, problem["pointer"]) == (422, pointer), problem
        assert "secret" not in response.text
    for query in ("limit=0", "cursor=x", "cursor=-1", "cursor=1e3", "more=1"):
        assert httpx.get(f"{url}/moves?{query}").status_code == 422, query
    assessment = {"sample": 3}
    response = httpx.put(f"{url}/moves/nowhere/assessment", json=assessment)
    assert (response.status_code, response.json()["code"]) == (404, "unknown-resource")
    assert httpx.get(f"{url}/moves/refused").status_code == 404


def assessment_of(versions: dict[str, str]) -> StoreAssessment:
    """An assessment without texts of a store that was moved by a map of these versions."""
    fields = {"sample": 50, "other_than_translated_share": 0.25, **versions}
    facts = StoreFacts(ROWS, 50, "x", "y", 50, 0.0, 1.0, 1.0, is_moved=True)
    return StoreAssessment(fields, facts, None, None, ())


@pytest.mark.parametrize("count", [1, 3])
def test_assessment_is_listed_with_the_shards_that_are_still_listed(count: int) -> None:
    paths: list[str] = []

    def forget_first(_: str, path: str, __: bytes) -> Response:
        paths.append(path)
        if path.endswith("-0/assessment"):
            return Response(b'{"code": "unknown-resource", "detail": "no move a-0 is known"}', 404)
        return Response(b"", 204)

    move_ids = [f"a-{number}" for number in range(count)]
    shards = ReportedMove(move_ids, {"bridge": "exp"})
    with http_responder(forget_first) as address, Stitchwork(f"http://{address}") as client:
        (warning,) = report_assessment(client, shards, assessment_of(shards.versions))
    assert paths == [f"/moves/{id_}/assessment" for id_ in move_ids]
    of = "" if count == 1 else " of 1 of 3 shards"
    assert warning.endswith(f"the assessment with the move{of}: no move a-0 is known")


@pytest.mark.parametrize("shards", [0, 2])
def test_assessment_is_listed_with_the_move_that_it_is_on(
    client: Stitchwork, url: str, store: Path, tmp_path: Path, shards: int
) -> None:
    target, folder = tmp_path / "moved.parquet", tmp_path / "state"
    source, options = store, [["--checkpoint", str(folder)]]
    if shards:
        source, target = tmp_path / "old", tmp_path / "new"
        source.mkdir()
        store.rename(source / "0.parquet")
        options = [[*options[0], "--shard", f"{index}/{shards}"] for index in range(shards)]
    for words in options:
        assert migrate(url, source, target, *words) == 0
    assert ReportedMove.read(str(target), None) is None, "its checkpoint is in another folder"
    reported_move = ReportedMove.read(str(target), folder)
    assert reported_move is not None
    for record in moves_to(client, target):
        assert "assessment" not in record
    others = assessment_of(reported_move.versions | {"bridge": "irp"})
    (warning,) = report_assessment(client, reported_move, others)
    assert warning.endswith("with the move, which is of another bridge")
    assert report_assessment(client, reported_move, assessment_of(reported_move.versions)) == []
    (record,) = moves_to(client, target)
    expected: dict[str, Any]
    expected = {"sample": 50, "other_than_translated_share": 0.25, "action": None, "reasons": []}
    assert {name: record["assessment"][name] for name in expected} == expected
    with pytest.raises(InvalidInputError, match=r"got one to .*" + target.name):
        ReportedMove.read(str(tmp_path / "another.parquet"), folder)
    with pytest.raises(InvalidInputError, match="got none"):
        ReportedMove.read(str(target), tmp_path / "nowhere")
