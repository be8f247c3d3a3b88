"""Reports a move to the service, which lists it, while the move runs.

The move does not know of it: what is reported is read from the checkpoints on disk.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from stitchwork.addresses import without_password
from stitchwork.client.service_errors import ServiceError
from stitchwork.errors import StitchworkError
from stitchwork.migration.checkpoints import Checkpoint
from stitchwork.migration.file_shards import FileShard, read_plan
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.reject_reasons import sum_reasons
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
"""Seconds that a report may take."""
LAST_ATTEMPTS: Final = 3
"""How often the last report is sent at most."""
RETRY_SECONDS: Final = 1.0
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
    ) -> None:
        self._client = client.with_options(timeout=TIMEOUT, retries=0)
        stores = {"source": source, "target": target}
        self._fields: dict[str, Any] = {
            name: shortened(without_password(text), MAX_STORE_NAME) for name, text in stores.items()
        }
        self._fields |= {"engine": engine, "shard": shard and f"{shard.index}/{shard.count}"}
        self._checkpoints = _Checkpoints(folder, shard)
        self._seconds = seconds
        self._total, self._first, self._start = 0, -1, 0.0
        self._state: _State | None = None
        self._warnings: list[str] = []
        self._error: Exception | None = None
        self._is_refused = False
        self._begun, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="move reports", daemon=True)

    @property
    def warning(self) -> str | None:
        """Why the service does not list the move as it is; None if it does."""
        if self._error is None:
            return None
        return f"the service does not list this move: {self._error}"

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
        is_begun = self._begun.is_set()
        self._ended.set()
        self._begun.set()
        self._thread.join(2 * TIMEOUT)
        with self._client:
            if error is None:
                if is_begun or self._is_unfinished():
                    self._report_end("finished", None)
            elif is_begun and isinstance(error, Exception):
                known = isinstance(error, StitchworkError)
                reason = str(error) if known else type(error).__name__
                self._report_end("failed", shortened(reason, MAX_TEXT))
            elif is_begun:
                # Its user waits for the end.
                self._report("interrupted")

    def _run(self) -> None:
        self._begun.wait()
        while not self._ended.is_set() and not self._is_refused:
            self._report("running")
            self._ended.wait(max(self._seconds, getattr(self._error, "retry_after", 0.0) or 0.0))

    def _is_unfinished(self) -> bool:
        """Whether the last report of a move that was complete already has not arrived."""
        with suppress(StitchworkError, OSError):
            state = self._checkpoints.state()
            return state is not None and self._client.move(state.id)["status"] != "finished"
        return False

    def _report_end(self, status: MoveStatus, reason: str | None) -> None:
        for attempt in range(LAST_ATTEMPTS):
            if self._is_refused:
                return
            if attempt:
                time.sleep(RETRY_SECONDS)
            self._report(status, reason)
            if self._error is None:
                return

    def _report(self, status: MoveStatus, reason: str | None = None) -> None:
        try:
            # A move that fails before its first block is written leaves no checkpoint.
            self._state = state = self._checkpoints.state() or self._state
            if state is not None:
                self._client.report_move(state.id, self._report_fields(state, status, reason))
            self._error = None
        except (StitchworkError, OSError) as error:
            self._error = error
            self._is_refused = isinstance(error, ServiceError) and error.status in REFUSALS

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


def shortened(text: str, length: int) -> str:
    """A text of at most this length."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
