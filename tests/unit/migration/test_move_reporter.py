"""Reports of moves: which are sent at the end, and for how long the end waits for the service."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
import pytest

from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError
from stitchwork.migration import MoveReporter, move
from stitchwork.migration.stores import open_store
from tests.support import machine
from tests.support.http_responder import Response, http_responder
from tests.support.moved_stores import make_map, write_parquet

ROWS = 20
UNKNOWN = Response(b'{"code": "unknown-resource", "detail": "no such move"}', 404)


class MoveService:
    """A service that records reports, and has one response for every move.

    Attributes:
        known: The response to `GET /moves/{id}`.
        reports: The reports.
    """

    def __init__(self, known: Response = UNKNOWN) -> None:
        self.known = known
        self.reports: list[dict[str, Any]] = []

    def __call__(self, method: str, _: str, body: bytes) -> Response:
        if method == "GET":
            return self.known
        self.reports.append(json.loads(body))
        return Response(b"", 204)


@contextmanager
def reporter_of(
    service: Callable[[str, str, bytes], Response], target: Path, end_seconds: float | None = None
) -> Iterator[MoveReporter]:
    end = machine.deadline(30) if end_seconds is None else end_seconds
    with http_responder(service) as address, Stitchwork(f"http://{address}") as client:
        folder = Path(f"{target}.migration")
        yield MoveReporter(client, "a.parquet", str(target), folder, end_seconds=end)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A store that was moved and not reported."""
    write_parquet(tmp_path / "a.parquet", ROWS)
    path = tmp_path / "b.parquet"
    with open_store(str(tmp_path / "a.parquet")) as rows, open_store(str(path)) as moved:
        move(rows, moved, make_map(), Path(f"{path}.migration"))
    return path


@pytest.mark.parametrize(
    ("known", "statuses"),
    [
        (UNKNOWN, ["finished"]),
        (Response(b'{"status": "running"}'), ["finished"]),
        (Response(b"{}"), ["finished"]),
        (Response(b'{"status": "finished"}'), []),
    ],
    ids=["unknown", "running", "without status", "finished"],
)
def test_complete_move_is_reported_unless_its_end_is_known(
    target: Path, known: Response, statuses: list[str]
) -> None:
    service = MoveService(known)
    with reporter_of(service, target) as reporter, reporter:
        pass
    assert [report["status"] for report in service.reports] == statuses
    assert reporter.warning is None


def test_move_ends_with_a_warning_if_it_is_unknown_whether_it_is_listed(target: Path) -> None:
    service = MoveService(Response(b"<html>"))
    with reporter_of(service, target) as reporter, reporter:
        pass
    assert "expected a JSON object" in str(reporter.warning)


def test_checkpoint_that_cannot_be_reported_does_not_change_how_the_move_ends(target: Path) -> None:
    (Path(f"{target}.migration") / "checkpoint.json").write_text("[]")
    service = MoveService()
    with reporter_of(service, target) as reporter:

        def interrupt() -> None:
            with reporter:
                reporter.progress(1, ROWS)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert reporter.warning is not None
    assert service.reports == []
    with reporter_of(service, target) as reporter, reporter:
        pass
    assert reporter.warning is not None


def test_failure_is_reported_without_the_text_of_the_store_client(target: Path) -> None:
    service = MoveService()

    def fail() -> None:
        with reporter_of(service, target) as reporter, reporter:
            reporter.progress(1, ROWS)
            cause = psycopg.errors.UniqueViolation()
            raise InvalidInputError("store: Key (id)=(patient-4711)") from cause

    with pytest.raises(InvalidInputError):
        fail()
    last = service.reports[-1]
    assert last["status"] == "failed"
    assert last["reason"] == "UniqueViolation; its message is in the output of the command"
    assert len({report["run"] for report in service.reports}) == 1


def test_end_waits_for_a_service_that_does_not_answer_within_its_time_only(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Stitchwork(url) as client:
            folder = Path(f"{target}.migration")
            reporter = MoveReporter(client, "a", str(target), folder, end_seconds=0.5)
            with reporter:
                reporter.progress(ROWS, ROWS)
                start = time.monotonic()
            assert time.monotonic() - start < machine.deadline(15)
    assert "no answer from" in str(reporter.warning)


def test_end_is_reported_while_a_report_before_it_hangs(target: Path) -> None:
    service, arrived, ended = MoveService(), Event(), Event()

    def hang(method: str, path: str, body: bytes) -> Response:
        if json.loads(body)["status"] == "running":
            arrived.set()
            assert ended.wait(machine.deadline(60))
        return service(method, path, body)

    with reporter_of(hang, target, end_seconds=machine.deadline(10)) as reporter:
        try:
            with reporter:
                reporter.progress(ROWS, ROWS)
                assert arrived.wait(machine.deadline(30))
            assert reporter.warning is None
            assert [report["status"] for report in service.reports] == ["finished"]
        finally:
            ended.set()
