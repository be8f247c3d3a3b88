"""The queue's round trip: jobs without a model, against a task framework."""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.measure import (
    MEASURED_CORE,
    BenchmarkContext,
    BenchmarkResult,
    measuring_process,
    pin_process,
)
from stitchwork.queue.messages import Job
from stitchwork.queue.producer import Producer
from stitchwork.queue.shards import QueueShard
from stitchwork.resources import TextEncoder
from stitchwork.supervisor import Plan, start

CLIENTS: Final = 64
JOBS: Final = 8000


def queue(context: BenchmarkContext) -> list[BenchmarkResult]:
    """Jobs without a model through the service's queue and through Celery, on one server."""
    peer = context.peer("celery")
    if peer is None:
        return []
    with (
        tempfile.TemporaryDirectory(prefix="stitchwork-benchmark-") as name,
        start(Plan(port=0, data_dir=Path(name), workers=0)) as running,
    ):
        url = running.queue_url or ""
        # Celery uses another scheme for Unix sockets.
        celery_url = url.replace("unix://", "redis+socket://")
        script = str(Path(__file__).with_name("peers") / "with_celery.py")
        commands = (
            [sys.executable, "-P", "-m", "benchmarks.echo_worker", url],
            [str(peer), script, "worker", celery_url],
        )
        with contextlib.ExitStack() as stack:
            for command in commands:
                process = stack.enter_context(subprocess.Popen(command))  # noqa: S603
                stack.callback(process.kill)
                pin_process(process.pid, MEASURED_CORE)
            celery = stack.enter_context(
                measuring_process([str(peer), script, "client", celery_url])
            )
            ours, partner = [], []
            for i in range(context.rounds + 1):
                rate = asyncio.run(_job_rate(url, JOBS))
                celery_rate = celery(str(JOBS // 4))
                if i:
                    ours.append(rate)
                    partner.append(celery_rate)
    details = {"jobs": JOBS, "callers": CLIENTS, "inputs per job": 1}
    baseline = "the same through Celery, solo pool"
    return [BenchmarkResult("queue", baseline, "jobs/s", ours, partner, 1.0, True, details)]


async def _job_rate(url: str, count: int) -> float:
    """Jobs per second of 64 callers."""
    server = QueueShard(url, 30.0)
    producer = Producer(
        (server,),
        max_jobs=1 << 20,
        max_bytes=1 << 30,
        max_wait_seconds=30.0,
        worker_ttl_seconds=10.0,
    )
    await producer.start()
    job, numbers = Job(id="", encoder=TextEncoder(model="none")), iter(range(count))
    while not producer.workers():  # noqa: ASYNC110 the state of another process
        await asyncio.sleep(0.05)

    async def caller() -> None:
        for _ in numbers:
            await producer.run(job, ["a text"], 30.0)

    start_time = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CLIENTS)))
    elapsed = time.perf_counter() - start_time
    await producer.stop()
    server.close()
    return count / elapsed
