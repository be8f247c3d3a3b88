"""Reports a move to the service, which lists it, while the move runs.

The move does not know of it: what is reported is read from the checkpoints on disk.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from uuid import uuid4

from stitchwork.addresses import without_password
from stitchwork.client.service_errors import ServiceError
from stitchwork.errors import UnknownResourceError
from stitchwork.migration.checkpoints import Checkpoint
from stitchwork.migration.failure_reasons import public_reason
from stitchwork.migration.file_shards import FileShard, read_plan
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.reject_reasons import shortened, sum_reasons
from stitchwork.resources.moves import (
    MAX_STORE_NAME,
    MAX_TEXT,
    MAX_WARNINGS,
    MoveStatus,
)

if TYPE_CHECKING:
    from stitchwork.client import Stitchwork

REPORT_SECONDS: Final = 5.0
"""Time between two reports."""
TIMEOUT: Final = 5.0
"""Seconds that a report may take while the move runs."""
END_SECONDS: Final = 5.0
"""Seconds that a move waits at its end for the service."""
MIN_TIMEOUT: Final = 0.2
LAST_ATTEMPTS: Final = 3
"""How often the last report is sent at most."""
PATIENCE: Final = 0.1
"""Share of the time at the end that a report may take that was under way."""
RETRY_SECONDS: Final = 1.0
"""Time between two attempts to send the last report."""
REFUSALS: Final = (401, 403, 404, 405, 422)
"""Statuses after which no report would be taken: of a key, or of a release without moves."""
SUMS: Final = ("rows", "written", "rejected", "re_embedded", "uncovered", "mismatched")
"""Counts of `MoveProgress` that are added up."""


class _State(NamedTuple):
    """What the checkpoints of a move say together.

    Attributes:
        id: The id under which it is reported.
        versions: What its map is of.
        counts: Its rows, by the names of `MoveProgress`.
        reasons: Rows that were not translated, by the kind of the reason.
    """

    id: str
    versions: dict[str, str]
    counts: dict[str, int]
    reasons: dict[str, int]


@dataclass(slots=True)
class _Checkpoints:
    """The checkpoints of a move, or of a shard's files; complete ones are read once."""

    folder: Path
    shard: FileShard | None
    _complete: dict[Path, Checkpoint] = field(default_factory=dict)

    def state(self) -> _State | None:
        """Their sums; None before the first one is written, or if it is of an earlier release."""
        id_, folders = self._plan()
        checkpoints = list(self._read(folders))
        if not checkpoints:
            return None
        id_ = id_ or checkpoints[0].id
        if not id_:
            return None
        states = [checkpoint.progress for checkpoint in checkpoints]
        return _State(
            id_,
            checkpoints[0].move.versions._asdict(),
            {name: sum(getattr(state, name) for state in states) for name in SUMS},
            sum_reasons(state.reasons for state in states),
        )

    def _plan(self) -> tuple[str, Sequence[Path]]:
        """The id of the move, if it is not in its checkpoint, and the folders of checkpoints."""
        if self.shard is None:
            return "", [self.folder]
        plan = read_plan(self.folder)
        if plan is None or not plan.id:
            return "", []
        names = self.shard.select(plan.files)
        folders = [self.folder / f"{name}.migration" for name in names]
        return f"{plan.id}-{self.shard.index}", folders

    def _read(self, folders: Sequence[Path]) -> Iterator[Checkpoint]:
        for folder in folders:
            checkpoint = self._complete.get(folder) or Checkpoint.read(folder)
            if checkpoint is None:
                # Files are moved one after the other.
                return
            if checkpoint.progress.is_complete:
                self._complete[folder] = checkpoint
            yield checkpoint


class MoveReporter:
    """A context in which a move is reported to the service every few seconds.

    A report that fails never stops the move. A service that can list no moves, as one of an earlier
    release, gets no more of them.

    Args:
        client: A client of the service.
        source: The store that is read, as its user names it.
        target: The store that is written, as its user names it.
        folder: The folder of the checkpoint.
        engine: Name of the engine: `local` or `ray`.
        shard: The share of the files, if it is one.
        seconds: Time between two reports.
        end_seconds: How long the end of the context waits for the service at most.
    """

    def __init__(
        self,
        client: "Stitchwork",
        source: str,
        target: str,
        folder: Path,
        *,
        engine: str = "local",
        shard: FileShard | None = None,
        seconds: float = REPORT_SECONDS,
        end_seconds: float = END_SECONDS,
    ) -> None:
        self._client = client.with_options(timeout=TIMEOUT, retries=0)
        stores = {"source": source, "target": target}
        self._fields: dict[str, Any] = {
            name: shortened(without_password(text), MAX_STORE_NAME) for name, text in stores.items()
        }
        self._fields |= {"engine": engine, "shard": shard and f"{shard.index}/{shard.count}"}
        self._fields["run"] = uuid4().hex
        self._checkpoints = _Checkpoints(folder, shard)
        self._seconds, self._end_seconds = seconds, end_seconds
        self._total, self._first, self._start = 0, -1, 0.0
        self._state: _State | None = None
        self._warnings: list[str] = []
        self._error: Exception | None = None
        self._refusal: ServiceError | None = None
        self._begun, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="move reports", daemon=True)

    @property
    def warning(self) -> str | None:
        """Why the service does not list the move as it is; None if it does."""
        error = self._refusal or self._error
        return None if error is None else f"the service does not list this move: {error}"

    def progress(self, done: int, total: int) -> None:
        """Note how far the move is; it has begun then.

        Args:
            done: The rows that are done.
            total: All rows.
        """
        self._total = total
        if not self._begun.is_set():
            self._first, self._start = done, time.perf_counter()
            self._begun.set()

    def add_results(self, results: Sequence[MoveResult]) -> None:
        """Note the results of the move, whose warnings are part of the last report."""
        self._warnings = [warning for result in results for warning in result.warnings]
        self._total = max(self._total, sum(result.rows for result in results))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_begun, end = self._begun.is_set(), time.monotonic() + self._end_seconds
        self._ended.set()
        self._begun.set()
        # A report that takes longer changes nothing if it arrives after the last one.
        self._thread.join(self._end_seconds * PATIENCE)
        if error is None:
            if is_begun or self._is_unfinished(end):
                self._report_end("finished", None, end)
        elif is_begun and isinstance(error, Exception):
            self._report_end("failed", shortened(public_reason(error), MAX_TEXT), end)
        elif is_begun:
            # Its user waits for the end.
            self._report_end("interrupted", None, end, attempts=1)

    def _run(self) -> None:
        self._begun.wait()
        with self._client:
            while not self._ended.is_set() and self._refusal is None:
                error = self._report(self._client, "running")
                pause = getattr(error, "retry_after", 0.0) or 0.0
                self._ended.wait(max(self._seconds, pause))

    def _is_unfinished(self, end: float) -> bool:
        """Whether the last report of a move that was complete already has not arrived."""
        try:
            state = self._checkpoints.state()
            if state is None:
                return False
            with self._last_client(end) as client:
                return client.move(state.id).get("status") != "finished"
        except UnknownResourceError:
            return True
        except Exception as error:  # noqa: BLE001 the command warns of it
            self._error = error
            return False

    def _report_end(
        self, status: MoveStatus, reason: str | None, end: float, attempts: int = LAST_ATTEMPTS
    ) -> None:
        """Send the last report, again if it does not arrive and there is time."""
        for attempt in range(attempts):
            if attempt and time.monotonic() + RETRY_SECONDS < end:
                time.sleep(RETRY_SECONDS)
            elif attempt or self._refusal is not None:
                return
            with self._last_client(end) as client:
                self._error = self._report(client, status, reason)
            if self._error is None or self._refusal is not None:
                return

    def _last_client(self, end: float) -> "Stitchwork":
        """A client for one of the last requests: it connects and waits until the time is up."""
        seconds = max(end - time.monotonic(), MIN_TIMEOUT)
        return self._client.with_options(timeout=seconds / 2, retries=0)

    def _report(
        self, client: "Stitchwork", status: MoveStatus, reason: str | None = None
    ) -> Exception | None:
        """Send a report, and return why it has not arrived."""
        try:
            # A move that fails before its first block is written leaves no checkpoint.
            self._state = state = self._checkpoints.state() or self._state
            if state is not None:
                client.report_move(state.id, self._report_fields(state, status, reason))
        except Exception as error:  # noqa: BLE001 the command warns of it: the move goes on
            if isinstance(error, ServiceError) and error.status in REFUSALS:
                self._refusal = error
            return error
        return None

    def _report_fields(
        self, state: _State, status: MoveStatus, reason: str | None
    ) -> dict[str, Any]:
        rows, elapsed = state.counts["rows"], time.perf_counter() - self._start
        is_moving = self._first >= 0 and elapsed > 0
        rate = round(max(0, rows - self._first) / elapsed, 1) if is_moving else None
        return {
            **self._fields,
            **state.counts,
            "status": status,
            "versions": state.versions,
            "total": max(self._total, rows),
            "reasons": state.reasons,
            "rows_per_second": rate,
            "reason": reason,
            "warnings": [shortened(text, MAX_TEXT) for text in self._warnings[:MAX_WARNINGS]],
        }
