"""HTTP load: requests sent in turns to several targets, and a closed loop of clients."""

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import numpy as np

DEADLINE: Final = 60.0
GRACE_SECONDS: Final = 5.0
"""How long after its deadline a response may still arrive before the request counts as lost."""
WARM_UP_SECONDS: Final = 2.0
SLICES: Final = 4
"""Turns that each target takes within a round."""


def http_client(url: str, deadline: float) -> aiohttp.ClientSession:
    """An HTTP client without a limit on concurrent requests.

    aiohttp, because it uses the least CPU time of the common clients: the load generator should not
    limit what is measured.
    """
    return aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=10),
        timeout=aiohttp.ClientTimeout(total=deadline + GRACE_SECONDS),
    )


@dataclass(frozen=True)
class Target:
    """A request that is sent repeatedly.

    Attributes:
        url: URL of the service.
        path: Path of the request.
        body: Body of a POST; None sends a GET.
        headers: Headers of the request.
    """

    url: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Timing:
    """Durations of one target's requests over the measured rounds.

    Attributes:
        rates: Requests per second, by round.
        medians: Median duration in milliseconds, by round.
        seconds: Durations of all requests in seconds.
    """

    rates: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def percentile(self, q: float) -> float:
        """The q-th percentile of the durations, in milliseconds."""
        return float(np.percentile(self.seconds, q)) * 1000

    @property
    def details(self) -> dict[str, float]:
        """The median and the 99th percentile, in milliseconds."""
        return {f"p{q} ms": round(self.percentile(q), 2) for q in (50, 99)}


def request_in_turns(
    targets: Sequence[Target], rounds: int, requests: int, clients: int = 1
) -> list[Timing]:
    """Send each target's request this many times a round, alternating between targets."""
    return asyncio.run(_request_in_turns(targets, rounds, requests, clients))


async def _request_in_turns(
    targets: Sequence[Target], rounds: int, requests: int, clients: int
) -> list[Timing]:
    timings = [Timing() for _ in targets]
    count = max(1, requests // (SLICES * clients))
    async with contextlib.AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(http_client(target.url, DEADLINE)) for target in targets
        ]
        for i in range(rounds + 1):
            durations: list[list[float]] = [[] for _ in targets]
            totals = [0.0 for _ in targets]
            for _ in range(SLICES):
                for j, (target, session) in enumerate(zip(targets, sessions, strict=True)):
                    start = time.perf_counter()
                    await asyncio.gather(
                        *(
                            _send_requests(session, target, count, durations[j])
                            for _ in range(clients)
                        )
                    )
                    totals[j] += time.perf_counter() - start
            # The first round only warms up.
            for timing, seconds, total in zip(timings, durations, totals, strict=True):
                if i:
                    timing.rates.append(len(seconds) / total)
                    timing.medians.append(statistics.median(seconds) * 1000)
                    timing.seconds += seconds
    return timings


async def _send_requests(
    session: aiohttp.ClientSession, target: Target, count: int, durations: list[float]
) -> None:
    method = "GET" if target.body is None else "POST"
    for _ in range(count):
        start = time.perf_counter()
        async with session.request(
            method, target.path, data=target.body, headers=target.headers
        ) as response:
            await response.read()
            response.raise_for_status()
        durations.append(time.perf_counter() - start)


def closed_loop_rate(
    url: str, path: str, bodies: Sequence[bytes], seconds: float, clients: int = 64
) -> float:
    """JSON requests per second of a closed loop: each client waits for its response.

    The first two seconds only warm up.
    """
    return asyncio.run(_closed_loop_rate(url, path, bodies, seconds, clients))


async def _closed_loop_rate(
    url: str, path: str, bodies: Sequence[bytes], seconds: float, clients: int
) -> float:
    numbers, done = itertools.count(), 0
    start = time.perf_counter() + WARM_UP_SECONDS
    end = start + seconds

    async def send_requests(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while time.perf_counter() < end:
            body = bodies[next(numbers) % len(bodies)]
            headers = {"Content-Type": "application/json"}
            async with session.post(path, data=body, headers=headers) as response:
                await response.read()
                response.raise_for_status()
            done += start <= time.perf_counter() <= end

    async with http_client(url, DEADLINE) as session:
        await asyncio.gather(*(send_requests(session) for _ in range(clients)))
    return done / seconds


def fixed_count(
    url: str, path: str, bodies: Sequence[bytes], clients: int, headers: Mapping[str, str]
) -> tuple[float, list[float]]:
    """Send each body once, by so many clients that each wait for their response.

    Returns:
        The seconds that all took, and the duration of each request in seconds.
    """
    return asyncio.run(_fixed_count(url, path, bodies, clients, headers))


async def _fixed_count(
    url: str, path: str, bodies: Sequence[bytes], clients: int, headers: Mapping[str, str]
) -> tuple[float, list[float]]:
    remaining, durations = iter(bodies), list[float]()

    async def send_requests(session: aiohttp.ClientSession) -> None:
        for body in remaining:
            start = time.perf_counter()
            async with session.post(path, data=body, headers=headers) as response:
                await response.read()
                response.raise_for_status()
            durations.append(time.perf_counter() - start)

    async with http_client(url, DEADLINE) as session:
        start = time.perf_counter()
        await asyncio.gather(*(send_requests(session) for _ in range(clients)))
        return time.perf_counter() - start, durations
