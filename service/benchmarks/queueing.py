"""The way to a worker and back: jobs without a model, against the same through a task framework."""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.measure import THEIRS, Result, Round, asked, pin
from stitchwork.errors import QueueUnavailableError
from stitchwork.queue.messages import Job
from stitchwork.queue.producer import Producer
from stitchwork.redis.client import RedisClient
from stitchwork.resources import TextEncoder
from stitchwork.supervisor import Plan, start

CLIENTS: Final = 64
JOBS: Final = 8000


def queue(ask: Round) -> list[Result]:
    """Jobs without a model through streams, and the same through Celery, on one server."""
    peer = ask.peer("celery")
    if peer is None:
        return []
    with (
        tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name,
        start(Plan(port=0, data_dir=Path(name), workers=0)) as running,
    ):
        url = running.queue_url or ""
        # Celery speaks to a socket by another scheme.
        foreign = url.replace("unix://", "redis+socket://")
        script = str(Path(__file__).with_name("peers") / "with_celery.py")
        commands = (
            [sys.executable, "-m", "benchmarks.echo_worker", url],
            [str(peer), script, "worker", foreign],
        )
        with contextlib.ExitStack() as stack:
            for command in commands:
                process = stack.enter_context(subprocess.Popen(command))  # noqa: S603
                stack.callback(process.kill)
                pin(process.pid, THEIRS)
            celery = stack.enter_context(asked([str(peer), script, "client", foreign]))
            ours, partner = [], []
            for i in range(ask.rounds + 1):
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
    server = RedisClient(url, 30.0, QueueUnavailableError)
    dispatcher = Producer(
        server, max_jobs=1 << 20, max_bytes=1 << 30, max_wait_seconds=30.0, worker_ttl_seconds=10.0
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
