"""Load on a running service; every response is checked against the expected result."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import aiohttp
import numpy as np

from benchmarks.load import GRACE_SECONDS

RETRY_SECONDS: Final = 0.05
REFUSALS: Final = (429, 503)

Check = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One request and the check of its response.

    Attributes:
        kind: The verb, for the report.
        path: The path and query.
        body: Its bytes.
        headers: Its headers.
        is_right: Whether the body of a 200 is the expected result.
        is_foreign: Whether it is the expected result of another request of this kind.
    """

    kind: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    is_right: Check
    is_foreign: Check


@dataclass(slots=True)
class LoadResult:
    """The outcomes of the requests of one phase.

    Attributes:
        outcomes: Counts by what happened: `right`, `refused`, `late`, `lost`, `wrong`, `swapped`,
            `doubled`, and by status for all others.
        retries: Requests that were sent again after a killed API had closed their connection.
        seconds: Latencies of the right responses, by kind.
        ids: Request ids of the responses.
        start: When the phase began, after its warm-up; earlier responses are no goodput.
        end: When it ended; later responses are no goodput.
        in_time: Right responses within the phase, by kind.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    start: float = field(default_factory=time.monotonic)
    end: float = float("inf")
    in_time: Counter[str] = field(default_factory=Counter)

    @property
    def sent(self) -> int:
        """Requests, each counted once however often it was sent."""
        return sum(self.outcomes.values()) - self.outcomes["doubled"]

    def goodput(self, kinds: Collection[str] | None = None) -> float:
        """Right responses per second of the phase, of these kinds or of all."""
        count = sum(n for kind, n in self.in_time.items() if kinds is None or kind in kinds)
        return count / (min(self.end, time.monotonic()) - self.start)

    def percentile(self, q: float) -> float:
        """The latency in seconds of q percent of the right responses."""
        latencies = [value for kind in self.seconds.values() for value in kind]
        return float(np.percentile(latencies, q)) if latencies else float("nan")

    def record(
        self,
        request: LoadRequest,
        response: aiohttp.ClientResponse,
        body: bytes,
        request_id: str,
        elapsed: float,
    ) -> None:
        """Count a response."""
        returned_id = response.headers.get("x-request-id", "")
        if returned_id in self.ids:
            self.outcomes["doubled"] += 1
        self.ids.add(returned_id)
        if returned_id != request_id:
            self.outcomes["swapped"] += 1
        elif response.status == 200:
            self._check(request, body, elapsed)
        elif response.status in REFUSALS and "retry-after" in response.headers:
            self.outcomes["refused"] += 1
        elif response.status == 504:
            self.outcomes["late"] += 1
        else:
            self.outcomes[f"status {response.status}"] += 1

    def _check(self, request: LoadRequest, body: bytes, elapsed: float) -> None:
        if request.is_right(body):
            self.outcomes["right"] += 1
            self.seconds.setdefault(request.kind, []).append(elapsed)
            self.in_time[request.kind] += self.start <= time.monotonic() <= self.end
        else:
            self.outcomes["swapped" if request.is_foreign(body) else "wrong"] += 1


@dataclass(slots=True)
class LoadGenerator:
    """Sends requests to a service and counts their outcomes.

    Attributes:
        http: The client.
        deadline: Seconds that each request may take.
        last_kill: When an API was last killed, which closes connections.
        result: The outcomes of the current phase.
    """

    http: aiohttp.ClientSession
    deadline: float
    last_kill: float = -1e9
    result: LoadResult = field(default_factory=LoadResult)

    async def send(self, request: LoadRequest) -> str | None:
        """Send one request, again if a killed API closes its connection.

        Returns:
            The response's `Retry-After` in seconds; None if it has none.
        """
        result, request_id, start = self.result, uuid4().hex, time.monotonic()
        headers = {
            **request.headers,
            "X-Request-Id": request_id,
            "X-Request-Timeout": f"{self.deadline}",
        }
        while True:
            try:
                async with self.http.post(
                    request.path, data=request.body, headers=headers
                ) as response:
                    body = await response.read()
            except TimeoutError:
                result.outcomes["lost"] += 1
                return None
            except aiohttp.ClientError:
                if time.monotonic() - self.last_kill > GRACE_SECONDS:
                    result.outcomes["lost"] += 1
                    return None
                result.retries += 1
                await asyncio.sleep(RETRY_SECONDS)
                continue
            result.record(request, response, body, request_id, time.monotonic() - start)
            pause: str | None = response.headers.get("retry-after")
            return pause

    async def closed(
        self, pick: Callable[[], LoadRequest], clients: int, seconds: float, warm_up: float = 0.0
    ) -> LoadResult:
        """Closed load: each client sends its next request once it has a response."""
        end = self._begin(seconds, warm_up)

        async def client() -> None:
            while time.monotonic() < end:
                pause = await self.send(pick())
                if pause is not None:
                    await asyncio.sleep(min(float(pause), max(0.0, end - time.monotonic())))

        await _all([client() for _ in range(clients)])
        return self.result

    async def open(
        self, pick: Callable[[], LoadRequest], rate: float, seconds: float
    ) -> LoadResult:
        """Open load: requests at a rate per second, however many are still unanswered."""
        end, tasks = self._begin(seconds), set[asyncio.Task[str | None]]()
        due = time.monotonic()
        while (now := time.monotonic()) < end:
            while due <= now:
                tasks.add(asyncio.create_task(self.send(pick())))
                due += 1 / rate
            await asyncio.sleep(max(0.0, min(due, end) - time.monotonic()))
        await asyncio.gather(*tasks)
        return self.result

    def _begin(self, seconds: float, warm_up: float = 0.0) -> float:
        self.result = LoadResult(start=time.monotonic() + warm_up)
        self.result.end = self.result.start + seconds
        return self.result.end


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)
