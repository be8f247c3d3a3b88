"""`stitchwork bench`: the service against what limits it, timed in turns within one run."""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save

from service.client import SAFETENSORS, Stitchwork, json_items
from service.errors import QueueUnavailable, Unavailable
from service.evaluation.datasets import digits
from service.evaluation.load import Ask, Load, client
from service.evaluation.texts import sentences
from service.launcher import Plan, Running, start
from service.models.packaged import minilm_folder, write_efficientnet_lite
from service.queue.dispatcher import Dispatcher
from service.queue.jobs import Job
from service.records import Item, TextEncoder, pack_items
from service.store.codec import pack
from service.store.server import Server

CLIENTS: Final = 64
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
OURS, THEIRS = 0, 1
"""Cores: load, API and servers share the first; what is measured has the second for itself."""
DEADLINE: Final = 60.0
WARM_UP: Final = 2.0
JOBS: Final = 8000
PEERS: Final = "STITCHWORK_BENCH_PEERS"
"""Names an interpreter with the frameworks that the service is compared with."""


@dataclass(frozen=True)
class Result:
    """One case.

    Attributes:
        case: Its name.
        what: What was measured, and against what.
        unit: Of both figures.
        ours: Medians of the service, round by round.
        partner: The same of its partner.
        goal: What the ratio ours/partner is to be.
        more: Whether a larger ratio is better.
        facts: What else is worth knowing.
    """

    case: str
    what: str
    unit: str
    ours: list[float]
    partner: list[float]
    goal: float
    more: bool
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Of the medians over all rounds."""
        return statistics.median(self.ours) / statistics.median(self.partner)

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.ratio >= self.goal if self.more else self.ratio <= self.goal


def run(cases: Sequence[str], rounds: int, report: Path | None) -> int:
    """Run cases, print their table, and write the report.

    Returns:
        0 if every goal is met.
    """
    console = Console()
    os.sched_setaffinity(0, {OURS})
    results: list[Result] = []
    for case in cases:
        console.print(f"{case} …")
        results += CASES[case](rounds)
    table = Table(title=f"{rounds} rounds in turns; what is measured has core {THEIRS} for itself")
    for name in ("case", "against", "ours", "partner", "ratio", "goal"):
        table.add_column(name, justify="right" if name not in ("case", "against") else "left")
    for found in results:
        ours, partner = statistics.median(found.ours), statistics.median(found.partner)
        goal = f"{'≥' if found.more else '≤'} {found.goal:g}"
        style = None if found.met else "bold red"
        cells = (f"{ours:.4g} {found.unit}", f"{partner:.4g} {found.unit}", f"{found.ratio:.3f}")
        table.add_row(found.case, found.what, *cells, goal, style=style)
    console.print(table)
    for found in results:
        console.print(f"{found.case}: {json.dumps(found.facts)}", highlight=False, soft_wrap=True)
    if report:
        told = [asdict(found) | {"ratio": found.ratio, "met": found.met} for found in results]
        report.write_text(json.dumps(told, indent=2) + "\n")
    return 0 if all(found.met for found in results) else 1


def images(rounds: int) -> list[Result]:
    """`/stitch` of images under 64 clients against the same pipeline offline at its best batch."""
    with tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name:
        folder = Path(name)
        weights = write_efficientnet_lite("tf_efficientnet_lite0", folder)
        spec = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(weights)}
        items = list[Item](digits().train[:256])
        with _worker_on_a_core(folder) as running:
            return [_against_offline(running, folder, "images", spec, items, 1, rounds)]


def texts(rounds: int) -> list[Result]:
    """The same of texts, sixteen to a request."""
    with tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name:
        folder = Path(name)
        spec = {"kind": "transformers", "model": str(minilm_folder())}
        items = list[Item](sentences(512))
        with _worker_on_a_core(folder) as running:
            return [_against_offline(running, folder, "texts", spec, items, 16, rounds)]


@contextlib.contextmanager
def _worker_on_a_core(folder: Path) -> Iterator[Running]:
    plan = Plan(
        port=0,
        data_dir=Path(tempfile.mkdtemp(dir=folder)),
        workers=1,
        env={
            "STITCHWORK_MODEL_ROOTS": f"{folder}:{minilm_folder()}",
            "STITCHWORK_LOG_LEVEL": "error",
            "STITCHWORK_BLAS_THREADS": "1",
            "STITCHWORK_REQUEST_TIMEOUT": f"{DEADLINE}",
        },
    )
    with start(plan) as running:
        _pin(running.pids["worker-1"], THEIRS)
        yield running


def _against_offline(
    running: Running,
    folder: Path,
    case: str,
    spec: dict[str, Any],
    items: list[Item],
    each: int,
    rounds: int,
) -> Result:
    _register(running, spec, items)
    path = folder / "items"
    path.write_bytes(pack(pack_items(items), {}))
    roots = f"{folder}:{minilm_folder()}"
    with _offline(running, roots, path) as offline:
        tried = {size: round(offline(size, 3.0), 1) for size in BATCHES}
        likely = sorted(tried, key=lambda size: -tried[size])[:3]
        ours: list[float] = []
        theirs: dict[int, list[float]] = {size: [] for size in likely}
        for i in range(rounds + 1):
            rate = asyncio.run(_throughput(running.url, items, each, 12.0))
            for size in likely:
                theirs[size].append(offline(size, 3.0))
            if i:
                ours.append(rate)
    # The first round only warms up.
    best = max(likely, key=lambda size: statistics.median(theirs[size][1:]))
    partner = theirs[best][1:]
    what = f"the same pipeline offline in batches of {best}"
    facts = {"inputs per request": each, "clients": CLIENTS, "offline by batch size": tried}
    return Result(case, what, "inputs/s", ours, partner, 0.95, True, facts)


def _register(running: Running, spec: dict[str, Any], items: list[Item]) -> None:
    modality = "text" if isinstance(items[0], str) else "image"
    anchors: Any = items[:200]
    with Stitchwork(running.url) as registering:
        registering.put_anchor_set("anchors", modality, items=anchors)
        registering.put_space("source", "anchors", encoder=spec)
        rows = np.random.default_rng(0).normal(size=(len(anchors), 384)).astype(np.float32)
        registering.put_space("target", "anchors", anchors=rows)
        registering.wait("spaces", "source")
        weight = np.random.default_rng(1).normal(size=(10, 384)).astype(np.float32)
        labels = [str(i) for i in range(10)]
        registering.put_head("head", "target", arrays={"weight": weight}, labels=labels)


@contextlib.contextmanager
def _offline(running: Running, roots: str, path: Path) -> Iterator[Callable[[int, float], float]]:
    urls = (running.redis_url or "", running.queue_url or "")
    command = [sys.executable, "-m", "service.evaluation.offline", *urls, roots]
    with _asked([*command, "source", "head", str(path)], THEIRS) as ask:
        yield lambda size, seconds: ask(f"{size} {seconds}")


@contextlib.contextmanager
def _asked(command: Sequence[str], core: int = OURS) -> Iterator[Callable[[str], float]]:
    """A process that answers each line with a number, once it has said that it is ready."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)  # noqa: S603
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    sink, source = process.stdin, process.stdout
    if source.readline().strip() != "ready":
        raise Unavailable("the partner of the measurement did not start")
    _pin(process.pid, core)

    def ask(line: str) -> float:
        print(line, file=sink, flush=True)
        return float(source.readline())

    yield ask
    sink.close()
    process.wait(30)


async def _throughput(url: str, items: list[Item], each: int, seconds: float) -> float:
    """Inputs per second that `/stitch` answers."""
    asks, at = [], 0
    while at + each <= len(items):
        part, at = items[at : at + each], at + each
        body = orjson.dumps({"items": json_items(part), "top": 1})
        headers = {"Content-Type": "application/json"}
        asks.append(Ask("stitch", "/stitch/source/head", body, headers, _answered, _never))
    turn = iter(range(1 << 60))
    async with client(url, DEADLINE) as http:
        load = Load(http, DEADLINE)
        tally = await load.closed(lambda: asks[next(turn) % len(asks)], CLIENTS, seconds, WARM_UP)
    if set(tally.outcomes) != {"right"}:
        raise Unavailable(f"not every request was answered: {dict(tally.outcomes)}")
    return tally.goodput() * each


def queue(rounds: int) -> list[Result]:
    """Jobs without a model through streams, and the same through Celery, on one server."""
    peer = os.environ.get(PEERS)
    if not peer:
        Console().print(f"  skipped, for {PEERS} names no interpreter with celery[redis]")
        return []
    with (
        tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name,
        start(Plan(port=0, data_dir=Path(name), workers=0)) as running,
    ):
        url = running.queue_url or ""
        # Celery speaks to a socket by another scheme.
        foreign = url.replace("unix://", "redis+socket://")
        script = str(Path(__file__).with_name("celery_peer.py"))
        commands = (
            [sys.executable, "-m", "service.evaluation.echo", url],
            [peer, script, "worker", foreign],
        )
        with contextlib.ExitStack() as stack:
            for command in commands:
                process = stack.enter_context(subprocess.Popen(command))  # noqa: S603
                stack.callback(process.kill)
                _pin(process.pid, THEIRS)
            celery = stack.enter_context(_asked([peer, script, "client", foreign]))
            ours, partner = [], []
            for i in range(rounds + 1):
                found = asyncio.run(_dispatched(url, JOBS))
                theirs = celery(str(JOBS // 4))
                if i:
                    ours.append(found)
                    partner.append(theirs)
    facts = {"jobs": JOBS, "callers": CLIENTS, "inputs per job": 1}
    what = "the same through Celery, solo pool"
    return [Result("queue", what, "jobs/s", ours, partner, 1.0, True, facts)]


async def _dispatched(url: str, count: int) -> float:
    """Jobs per second that 64 callers get done."""
    server = Server(url, 30.0, QueueUnavailable)
    dispatcher = Dispatcher(
        server, most_jobs=1 << 20, most_bytes=1 << 30, most_waited=30.0, worker_ttl=10.0
    )
    dispatcher.start()
    job, turn = Job(id="", encoder=TextEncoder(model="none")), iter(range(count))
    while not dispatcher.workers():  # noqa: ASYNC110 others' state, not ours
        await asyncio.sleep(0.05)

    async def caller() -> None:
        for _ in turn:
            await dispatcher.run(job, ["a text"], 30.0)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CLIENTS)))
    spent = time.perf_counter() - began
    await asyncio.to_thread(dispatcher.stop)
    server.close()
    return count / spent


def spaces(rounds: int) -> list[Result]:
    """`/translate` beside a thousand more spaces against `/translate` without them."""
    rng = np.random.default_rng(0)
    anchors = {name: rng.normal(size=(500, 384)).astype(np.float32) for name in ("x", "y")}
    body = save({"embeddings": rng.normal(size=(64, 384)).astype(np.float32)})
    with tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name:
        env = {"STITCHWORK_LOG_LEVEL": "error", "STITCHWORK_BLAS_THREADS": "1"}
        plans = [Plan(port=0, data_dir=Path(name) / part, workers=0, env=env) for part in "ab"]
        with start(plans[0]) as few, start(plans[1]) as many:
            for running in (few, many):
                _pin(running.pids["api"], THEIRS)
                with Stitchwork(running.url) as registering:
                    for space, rows in anchors.items():
                        registering.put_space(space, "set", anchors=rows)
            began = time.monotonic()
            with Stitchwork(many.url) as registering:
                for i in range(1000):
                    rows = rng.normal(size=(64, 32)).astype(np.float32)
                    registering.put_space(f"more-{i}", "more", anchors=rows)
            took = time.monotonic() - began
            ours, partner = asyncio.run(_latencies([many.url, few.url], body, rounds))
    facts = {"seconds to register 1,000 spaces": round(took, 1), "rows": 64, "width": 384}
    what = "/translate with only two spaces registered"
    return [Result("1,000 spaces", what, "ms p50", ours, partner, 1.10, False, facts)]


async def _latencies(urls: Sequence[str], body: bytes, rounds: int) -> tuple[list[float], ...]:
    """Milliseconds at the median of each service, asked in turns, round by round."""
    path, headers = "/translate?source=x&target=y", {"Content-Type": SAFETENSORS}
    medians: tuple[list[float], ...] = tuple([] for _ in urls)
    async with contextlib.AsyncExitStack() as stack:
        https = [await stack.enter_async_context(client(url, DEADLINE)) for url in urls]
        for i in range(rounds + 1):
            seen: list[list[float]] = [[] for _ in urls]
            for _ in range(300):
                for taken, http in zip(seen, https, strict=True):
                    began = time.perf_counter()
                    async with http.post(path, data=body, headers=headers) as answer:
                        await answer.read()
                        answer.raise_for_status()
                    taken.append(time.perf_counter() - began)
            for found, taken in zip(medians, seen, strict=True):
                if i:
                    found.append(statistics.median(taken) * 1000)
    return medians


def _pin(pid: int, core: int) -> None:
    """Hold a process, and every thread it has so far, to one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def _answered(body: bytes) -> bool:
    return body.startswith(b'{"predictions":')


def _never(body: bytes) -> bool:
    return False


CASES: Final[Mapping[str, Callable[[int], list[Result]]]] = {
    "images": images,
    "texts": texts,
    "queue": queue,
    "spaces": spaces,
}
