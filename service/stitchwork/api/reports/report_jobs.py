"""Reports that are computed in the background and stored by the versions that they are about.

A report consists of parts, which one child process computes one after the other, at a low priority.
A request waits a moment for the rest of its report, and otherwise learns how much of it is done.
What is stored serves all processes. A part that another process computes is left to it, and a
report whose process ends is continued by the next request for it.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.schemas.report_responses import ReportProgressResponse
from stitchwork.api.schemas.response_model import ResponseModel
from stitchwork.api.schemas.responses import Progress
from stitchwork.background import NICENESS, PeriodicTask
from stitchwork.errors import JobFailedError, QueueFullError, StitchworkError, UnavailableError
from stitchwork.processes.pool import (
    CallCancelledError,
    CallHandle,
    ProcessDiedError,
    ProcessPool,
)
from stitchwork.registry.report_store import LEASE_SECONDS, ReportStore
from stitchwork.resources import ApiKey

log = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_SECONDS: Final = 5.0
"""How long a request waits for its report, at most."""
RETRY_SECONDS: Final = 1
"""Time after which a client should ask for a report again."""
POLL_SECONDS: Final = 0.25
"""How often a request looks for what another process computes."""
MAX_JOBS: Final = 16
"""Reports in progress, in one process."""
MAX_JOBS_PER_KEY: Final = 4
"""Reports in progress that one API key began, in one process."""
MAX_BYTES: Final = 16 * 1024**3
"""Address space of the child process."""
PART_SECONDS: Final = 600.0
"""Time that a part may take before this process counts as stalled."""
IDLE_SECONDS: Final = 10.0
"""How often the thread shows that it is alive."""


class ProcessCall(Protocol):
    """Calls a function of a module in another process."""

    def __call__(self, function: Callable[..., T], *args: Any) -> T:
        """The result of the function."""


class ReportPart(NamedTuple):
    """What one call computes of a report.

    Attributes:
        name: Name of its lease.
        compute: Computes what is not stored of it, given how to call a function in another
            process, and returns the results to store by their names.
    """

    name: str
    compute: Callable[[ProcessCall], Mapping[str, Any]]


def joint_name(names: Iterable[str]) -> str:
    """The name of what consists of results with these names, in whatever order."""
    return sha256("|".join(sorted(names)).encode()).hexdigest()


class ReportState(NamedTuple):
    """A report, or how much of it is done.

    Attributes:
        name: Name of the report.
        response: The report; None until all of it is stored.
        progress: How much is done.
        parts: What remains to be computed.
        headers: Headers of the response.
    """

    name: str
    response: ResponseModel | None
    progress: Progress
    parts: Sequence[ReportPart]
    headers: Mapping[str, str]


class ReportJobs:
    """Computes reports in a child process, one part of each in turn.

    Args:
        store: Where results are kept.
        max_jobs: Reports that may be in progress.
        max_jobs_per_key: Those of them that one API key may have begun.

    Attributes:
        tasks: Its background tasks.
    """

    def __init__(
        self,
        store: ReportStore,
        max_jobs: int = MAX_JOBS,
        max_jobs_per_key: int = MAX_JOBS_PER_KEY,
    ) -> None:
        self._store = store
        self._max_jobs = max_jobs
        self._max_jobs_per_key = max_jobs_per_key
        self._guard = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._turns: deque[_Job] = deque()
        self._due = threading.Event()
        self._stopping = threading.Event()
        self._pool = ProcessPool(1, max_bytes=MAX_BYTES, niceness=NICENESS)
        self._call = CallHandle()
        self._lease: str | None = None
        self.tasks = (
            PeriodicTask("reports", self._run, 0.0, stalled_seconds=PART_SECONDS),
            PeriodicTask("report-leases", self._renew, LEASE_SECONDS / 4),
        )

    def start(self) -> None:
        """Begin."""
        for task in self.tasks:
            task.start()

    def stop(self) -> None:
        """End the report in progress; the next request for it continues it in another process."""
        self._stopping.set()
        self._due.set()
        self._call.cancel()
        self._pool.close()
        for task in self.tasks:
            task.stop(0.0)

    def submit(self, state: ReportState, key: ApiKey | None = None) -> "Future[int]":
        """Compute what remains of a report, unless that is in progress.

        Args:
            state: The report.
            key: The API key of the request; None if no keys are set.

        Returns:
            The number of parts that other processes compute, once all others are stored.

        Raises:
            QueueFullError: If `max_jobs` reports are in progress, or the key began
                `max_jobs_per_key` of them.
        """
        name = key.name if key else None
        with self._guard:
            job = self._jobs.get(state.name)
            if job is None:
                self._check_room(name)
                job = self._jobs[state.name] = _Job(state, name)
                self._turns.append(job)
            self._due.set()
            return job.skipped

    def _check_room(self, key_name: str | None) -> None:
        if len(self._jobs) >= self._max_jobs:
            raise QueueFullError(
                f"expected fewer than {self._max_jobs} reports at a time in this process; "
                "try again later"
            )
        if key_name is None:
            return
        count = sum(job.key_name == key_name for job in self._jobs.values())
        if count >= self._max_jobs_per_key:
            raise QueueFullError(
                f"expected fewer than {self._max_jobs_per_key} reports at a time of key {key_name} "
                "in this process; try again later"
            )

    async def respond(
        self, request: Request, read: Callable[[], ReportState], seconds: float
    ) -> Response:
        """The response to a request for a report: the report, or 202 with its progress.

        Args:
            request: The request.
            read: The state of the report; called until it is complete.
            seconds: How long to wait, at most `WAIT_SECONDS`.

        Raises:
            StitchworkError: What the computation raises.
        """
        deadline = time.monotonic() + min(seconds, WAIT_SECONDS)
        while True:
            state = await asyncio.to_thread(read)
            if state.response is not None:
                return negotiation.json_response(state.response, headers=state.headers)
            future = self.submit(state, request.scope["state"].get("key"))
            if (remaining := deadline - time.monotonic()) <= 0:
                return _pending(request, state)
            with suppress(TimeoutError):
                if await asyncio.wait_for(asyncio.wrap_future(future), remaining):
                    await asyncio.sleep(min(POLL_SECONDS, max(deadline - time.monotonic(), 0.0)))

    def _run(self) -> None:
        """Compute the next part of the report whose turn it is."""
        self._due.wait(IDLE_SECONDS)
        if self._stopping.is_set():
            return
        with self._guard:
            job = self._turns.popleft() if self._turns else None
            if job is None:
                self._due.clear()
                return
        try:
            if part := job.next_part():
                self._compute(job, part)
        except CallCancelledError:
            self._end(job, error=UnavailableError("this process is about to exit; try again"))
        except ProcessDiedError:
            self._end(job, error=JobFailedError("the report needs more memory than there is"))
        except Exception as error:  # noqa: BLE001 the requests that wait for it raise it
            self._end(job, error=error)
        else:
            if job.parts:
                self._turns.append(job)
            else:
                self._end(job)

    def _compute(self, job: "_Job", part: ReportPart) -> None:
        if not self._store.take(part.name):
            job.count_skipped += 1
            return
        self._lease = part.name
        try:
            self._store.put(part.compute(self._call_process))
        finally:
            self._lease = None
            self._store.release(part.name)

    def _call_process(self, function: Callable[..., T], *args: Any) -> T:
        return self._pool.call(function, *args, handle=self._call)

    def _end(self, job: "_Job", error: Exception | None = None) -> None:
        with self._guard:
            del self._jobs[job.name]
        if error is None:
            job.skipped.set_result(job.count_skipped)
            return
        reason = error.message if isinstance(error, StitchworkError) else repr(error)
        log.warning("report failed", extra={"report": job.name, "reason": reason})
        job.skipped.set_exception(error)

    def _renew(self) -> None:
        name = self._lease
        if name is not None:
            self._store.renew(name)


class _Job:
    """What remains to be computed of one report, and the name of the key that began it."""

    def __init__(self, state: ReportState, key_name: str | None) -> None:
        self.name = state.name
        self.key_name = key_name
        self.parts = deque(state.parts)
        self.count_skipped = 0
        self.skipped: Future[int] = Future()
        # So that a request that no longer waits does not cancel it: others may wait for it.
        self.skipped.set_running_or_notify_cancel()

    def next_part(self) -> ReportPart | None:
        return self.parts.popleft() if self.parts else None


def _pending(request: Request, state: ReportState) -> Response:
    """The response while a report is computed: the same request again gets it, once it is done."""
    body = ReportProgressResponse(status="pending", progress=state.progress)
    # Relative to the request, whatever prefix a proxy has removed from its path.
    location = request.url.path.rpartition("/")[2] + f"?{request.url.query}".rstrip("?")
    headers = {**state.headers, "Location": location, "Retry-After": str(RETRY_SECONDS)}
    return negotiation.json_response(body, 202, headers)
