"""Load on a running service, every answer of which is checked against what is right."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import aiohttp
import numpy as np

from benchmarks.http_session import GRACE_SECONDS

AGAIN_SECONDS: Final = 0.05
REFUSALS: Final = (429, 503)

Check = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One request and how to tell a right answer.

    Attributes:
        kind: What it asks for, for the report.
        path: Where it goes.
        body: Its bytes.
        headers: Its headers.
        right: Whether a 200 holds the right answer.
        foreign: Whether it holds the answer to another request of this kind.
    """

    kind: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    right: Check
    foreign: Check


@dataclass(slots=True)
class LoadResult:
    """What became of the requests of one phase.

    Attributes:
        outcomes: Counts by what happened: `right`, `refused`, `late`, `lost`, `wrong`, `swapped`,
            `doubled`, and by status for what should not happen.
        cut: Connections that a killed API took along; their requests were sent again.
        seconds: Of the right answers, by kind.
        seen: Ids of answers.
        began: When the phase began; what comes while it warms up does not count as goodput.
        ended: When it ended; later answers do not count as goodput.
        in_time: Right answers within the phase, by kind.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)
    ended: float = float("inf")
    in_time: Counter[str] = field(default_factory=Counter)

    @property
    def sent(self) -> int:
        """Requests that were sent, those sent again counted once."""
        return sum(self.outcomes.values()) - self.outcomes["doubled"]

    def goodput(self, kinds: Collection[str] | None = None) -> float:
        """Right answers per second of the phase, of these kinds or of all."""
        found = sum(n for kind, n in self.in_time.items() if kinds is None or kind in kinds)
        return found / (min(self.ended, time.monotonic()) - self.began)

    def percentile(self, q: float) -> float:
        """Seconds below which q percent of the right answers came."""
        found = [value for kind in self.seconds.values() for value in kind]
        return float(np.percentile(found, q)) if found else float("nan")

    def note(
        self,
        ask: LoadRequest,
        answer: aiohttp.ClientResponse,
        body: bytes,
        sent_id: str,
        took: float,
    ) -> None:
        """Take note of an answer."""
        got = answer.headers.get("x-request-id", "")
        if got in self.seen:
            self.outcomes["doubled"] += 1
        self.seen.add(got)
        if got != sent_id:
            self.outcomes["swapped"] += 1
        elif answer.status == 200:
            self._judge(ask, body, took)
        elif answer.status in REFUSALS and "retry-after" in answer.headers:
            self.outcomes["refused"] += 1
        elif answer.status == 504:
            self.outcomes["late"] += 1
        else:
            self.outcomes[f"status {answer.status}"] += 1

    def _judge(self, ask: LoadRequest, body: bytes, took: float) -> None:
        if ask.right(body):
            self.outcomes["right"] += 1
            self.seconds.setdefault(ask.kind, []).append(took)
            self.in_time[ask.kind] += self.began <= time.monotonic() <= self.ended
        else:
            self.outcomes["swapped" if ask.foreign(body) else "wrong"] += 1


@dataclass(slots=True)
class LoadGenerator:
    """Sends requests to a service and keeps the tally.

    Attributes:
        http: The client.
        deadline: Seconds that each request may take.
        killed: When an API was killed last, which may cut connections.
        tally: Of the phase under way.
    """

    http: aiohttp.ClientSession
    deadline: float
    killed: float = -1e9
    tally: LoadResult = field(default_factory=LoadResult)

    async def send(self, ask: LoadRequest) -> str | None:
        """Send one request, again if a killed API cuts it off.

        Returns:
            Seconds to wait before the next one, as the service asks for; None if it does not.
        """
        tally, sent_id, began = self.tally, uuid4().hex, time.monotonic()
        headers = {**ask.headers, "X-Request-Id": sent_id, "X-Request-Timeout": f"{self.deadline}"}
        while True:
            try:
                async with self.http.post(ask.path, data=ask.body, headers=headers) as answer:
                    body = await answer.read()
            except TimeoutError:
                tally.outcomes["lost"] += 1
                return None
            except aiohttp.ClientError:
                if time.monotonic() - self.killed > GRACE_SECONDS:
                    tally.outcomes["lost"] += 1
                    return None
                tally.cut += 1
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            tally.note(ask, answer, body, sent_id, time.monotonic() - began)
            pause: str | None = answer.headers.get("retry-after")
            return pause

    async def closed(
        self, pick: Callable[[], LoadRequest], clients: int, seconds: float, warm_up: float = 0.0
    ) -> LoadResult:
        """As many clients as told, each sending its next request once it has its answer."""
        until = self._begin(seconds, warm_up)

        async def client() -> None:
            while time.monotonic() < until:
                pause = await self.send(pick())
                if pause is not None:
                    await asyncio.sleep(min(float(pause), max(0.0, until - time.monotonic())))

        await _all([client() for _ in range(clients)])
        return self.tally

    async def open(
        self, pick: Callable[[], LoadRequest], rate: float, seconds: float
    ) -> LoadResult:
        """So many requests a second, whether or not the earlier ones are answered."""
        until, tasks = self._begin(seconds), set[asyncio.Task[str | None]]()
        due = time.monotonic()
        while (now := time.monotonic()) < until:
            while due <= now:
                tasks.add(asyncio.create_task(self.send(pick())))
                due += 1 / rate
            await asyncio.sleep(max(0.0, min(due, until) - time.monotonic()))
        await asyncio.gather(*tasks)
        return self.tally

    def _begin(self, seconds: float, warm_up: float = 0.0) -> float:
        self.tally = LoadResult(began=time.monotonic() + warm_up)
        self.tally.ended = self.tally.began + seconds
        return self.tally.ended


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)
