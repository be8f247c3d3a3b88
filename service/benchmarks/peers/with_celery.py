"""Tasks without a model through Celery; run by an interpreter that has it installed.

`PYTHON with_celery.py worker URL` runs tasks until it is killed; `PYTHON with_celery.py client URL`
reads counts from standard input and prints, for each, the tasks per second of 64 callers.
"""

import base64
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from celery import Celery

CALLERS = 64
WIDTH = 384
URL = sys.argv[2]

app = Celery("peer", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=32,
    broker_connection_retry_on_startup=True,
)


@app.task(name="echo")
def echo(texts: list[str]) -> str:
    """One row of zeros for each text, as base64 of float32."""
    return base64.b64encode(np.zeros((len(texts), WIDTH), np.float32).tobytes()).decode()


def rate(count: int) -> float:
    """Tasks per second of 64 callers."""
    with ThreadPoolExecutor(CALLERS) as pool:
        start = time.perf_counter()
        sizes = list(pool.map(lambda _: len(echo.delay(["a text"]).get(timeout=60)), range(count)))
        elapsed = time.perf_counter() - start
    assert set(sizes) == {4 * WIDTH * 4 // 3}  # noqa: S101
    return count / elapsed


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        app.worker_main(["worker", "--pool=solo", "--loglevel=ERROR", "--without-gossip"])
    else:
        print("ready", flush=True)  # noqa: T201
        for line in sys.stdin:
            print(rate(int(line)), flush=True)  # noqa: T201
