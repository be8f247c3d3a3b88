"""What every case of the bench is made of: rounds in turns, cores, processes, results."""

import asyncio
import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.cores import held_to
from benchmarks.http_session import client
from stitchwork.errors import UnavailableError
from stitchwork.supervisor import ServiceProcess

OURS, THEIRS = 0, 1
"""Cores: load and servers share the first; what is measured has the second for itself."""
DEADLINE: Final = 60.0
WARM_UP_SECONDS: Final = 2.0
SLICES: Final = 4
"""Turns that each side takes within a round."""


@dataclass(frozen=True)
class Result:
    """One case.

    Attributes:
        case: Its name.
        what: What was measured, and against what.
        unit: Of both figures.
        ours: Figures of the service, round by round.
        partner: The same of its partner; empty where a bound is all there is.
        goal: What the ratio ours/partner is to be, or ours where there is no partner.
        more: Whether a larger figure is better.
        facts: What else is worth knowing, such as the slowest in a hundred.
        difference: Set the goal to what the service adds, not to the ratio.
    """

    case: str
    what: str
    unit: str
    ours: list[float]
    partner: list[float]
    goal: float
    more: bool
    facts: Mapping[str, Any] = field(default_factory=dict)
    difference: bool = False

    @property
    def figure(self) -> float:
        """What the goal is set to, by the medians over all rounds."""
        own = statistics.median(self.ours)
        if not self.partner:
            return own
        other = statistics.median(self.partner)
        return own - other if self.difference else own / other

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.figure >= self.goal if self.more else self.figure <= self.goal


@dataclass(frozen=True)
class Round:
    """How a case is to be measured.

    Attributes:
        rounds: How many count; one more warms up.
        peers: Interpreters of other programs, by name; a case skips those that are not there.
        say: Tells whoever watches.
    """

    rounds: int
    peers: Mapping[str, Path]
    say: Callable[[str], None]

    def peer(self, name: str) -> Path | None:
        """The interpreter of a peer; says that it is skipped where there is none."""
        found = self.peers.get(name)
        if found is None:
            self.say(f"  {name} is skipped: --peers says where its environment is, or is made")
        return found


@dataclass(frozen=True)
class Target:
    """One request that is sent again and again.

    Attributes:
        url: The service.
        path: Where it goes there.
        body: Its bytes; without any it is a GET.
        headers: Its headers.
    """

    url: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Timing:
    """What one target's requests took, over the rounds that count.

    Attributes:
        rates: Requests per second, round by round.
        medians: Milliseconds, round by round.
        seconds: All of them.
    """

    rates: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def percentile(self, q: float) -> float:
        """Milliseconds below which q percent of the requests took."""
        return float(np.percentile(self.seconds, q)) * 1000

    @property
    def facts(self) -> dict[str, float]:
        """The median and the slowest in a hundred, in milliseconds."""
        return {f"p{q} ms": round(self.percentile(q), 2) for q in (50, 99)}


def in_turns(
    targets: Sequence[Target], rounds: int, requests: int, clients: int = 1
) -> list[Timing]:
    """Send each target's request so many times a round, one target after another, in slices."""
    return asyncio.run(_in_turns(targets, rounds, requests, clients))


async def _in_turns(
    targets: Sequence[Target], rounds: int, requests: int, clients: int
) -> list[Timing]:
    found = [Timing() for _ in targets]
    each = max(1, requests // (SLICES * clients))
    async with contextlib.AsyncExitStack() as stack:
        https = [
            await stack.enter_async_context(client(target.url, DEADLINE)) for target in targets
        ]
        for i in range(rounds + 1):
            seen: list[list[float]] = [[] for _ in targets]
            spent = [0.0 for _ in targets]
            for _ in range(SLICES):
                for at, (target, http) in enumerate(zip(targets, https, strict=True)):
                    began = time.perf_counter()
                    await asyncio.gather(
                        *(_send(http, target, each, seen[at]) for _ in range(clients))
                    )
                    spent[at] += time.perf_counter() - began
            # The first round only warms up.
            for timing, taken, total in zip(found, seen, spent, strict=True):
                if i:
                    timing.rates.append(len(taken) / total)
                    timing.medians.append(statistics.median(taken) * 1000)
                    timing.seconds += taken
    return found


async def _send(
    http: aiohttp.ClientSession, target: Target, times: int, taken: list[float]
) -> None:
    method = "GET" if target.body is None else "POST"
    for _ in range(times):
        began = time.perf_counter()
        async with http.request(
            method, target.path, data=target.body, headers=target.headers
        ) as answer:
            await answer.read()
            answer.raise_for_status()
        taken.append(time.perf_counter() - began)


def closed(
    url: str, path: str, bodies: Sequence[bytes], seconds: float, clients: int = 64
) -> float:
    """JSON requests per second that are answered; each client sends its next one then.

    The first two seconds only warm up.
    """
    return asyncio.run(_closed(url, path, bodies, seconds, clients))


async def _closed(
    url: str, path: str, bodies: Sequence[bytes], seconds: float, clients: int
) -> float:
    turn, done = iter(range(1 << 60)), 0
    began = time.perf_counter() + WARM_UP_SECONDS
    until = began + seconds

    async def one(http: aiohttp.ClientSession) -> None:
        nonlocal done
        while time.perf_counter() < until:
            body = bodies[next(turn) % len(bodies)]
            headers = {"Content-Type": "application/json"}
            async with http.post(path, data=body, headers=headers) as answer:
                await answer.read()
                answer.raise_for_status()
            done += began <= time.perf_counter() <= until

    async with client(url, DEADLINE) as http:
        await asyncio.gather(*(one(http) for _ in range(clients)))
    return done / seconds


def busy(running: ServiceProcess) -> dict[str, float]:
    """Milliseconds of a core that each process of a service has had so far."""
    ticks = {}
    for name, pid in running.pids.items():
        # What follows the name, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks[name] = int(fields[11]) + int(fields[12])
    return {name: 1000 * count / os.sysconf("SC_CLK_TCK") for name, count in ticks.items()}


def turns(works: Sequence[Callable[[], object]], rounds: int, times: int) -> list[list[float]]:
    """Milliseconds at the median of each piece of work, done in turns, round by round."""
    found: list[list[float]] = [[] for _ in works]
    for i in range(rounds + 1):
        taken: list[list[float]] = [[] for _ in works]
        for _ in range(times):
            for seen, work in zip(taken, works, strict=True):
                began = time.perf_counter()
                work()
                seen.append(time.perf_counter() - began)
        if i:
            for medians, seen in zip(found, taken, strict=True):
                medians.append(statistics.median(seen) * 1000)
    return found


def pin(pid: int, core: int) -> None:
    """Hold a process, and every thread it has so far, to one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Hold this thread to a core for a while, and its products to this thread.

    The threads that BLAS started when it was loaded would go on with the other cores.
    """
    with held_to([core]), threadpool_limits(1):
        yield


def pin_api(running: ServiceProcess) -> None:
    """Give the API of a service the core of what is measured."""
    pin(running.pids["api"], THEIRS)


@contextlib.contextmanager
def asked(command: Sequence[str], core: int = OURS) -> Iterator[Callable[[str], float]]:
    """A process that answers each line with a number, once it has said that it is ready."""
    with started(command, core) as (sink, source, _):

        def ask(line: str) -> float:
            print(line, file=sink, flush=True)
            return float(source.readline())

        yield ask


@contextlib.contextmanager
def started(command: Sequence[str], core: int) -> Iterator[tuple[Any, Any, list[str]]]:
    """A process on a core that has said that it is ready.

    Yields:
        Its standard input and output, and the lines that it said before it was ready.

    Raises:
        UnavailableError: If it ends before that.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with on_core(core):
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)  # noqa: S603
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    said: list[str] = []
    try:
        for line in process.stdout:
            if line.strip() == "ready":
                break
            said.append(line.strip())
        else:
            raise UnavailableError(f"{command[1:3]}, the partner of the measurement, did not start")
        yield process.stdin, process.stdout, said
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(30)
        process.stdout.close()
