"""Calls in child processes: results, errors, deaths and bounds."""

import io
import operator
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from stitchwork.errors import ErrorCode, InputTooLargeError
from stitchwork.models.image_files import decode
from stitchwork.processes.pool import (
    CallCancelledError,
    CallHandle,
    ProcessDiedError,
    ProcessPool,
)
from tests.support.processes import await_gone
from tests.support.waiting import wait_until


@pytest.fixture
def pool() -> Iterator[ProcessPool]:
    pool = ProcessPool(1)
    yield pool
    pids = pool.pids
    pool.close()
    await_gone(pids)


def test_call_returns_the_result_of_another_process_that_serves_the_next_call(
    pool: ProcessPool,
) -> None:
    assert pool.pids == []
    (pid,) = {pool.call(os.getpid) for _ in range(3)}
    assert pid != os.getpid()
    assert pool.pids == [pid]
    rows = np.ones((100, 100), np.float32)
    np.testing.assert_array_equal(pool.call(np.add, rows, rows), rows + rows)


def test_call_that_raises_raises_here_with_its_fields(pool: ProcessPool) -> None:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG")
    with pytest.raises(InputTooLargeError) as error:
        pool.call(decode, file.getvalue(), "/a", 1)
    assert (error.value.pointer, error.value.code) == ("/a", ErrorCode.TOO_MANY_PIXELS)
    with pytest.raises(ZeroDivisionError):
        pool.call(operator.truediv, 1, 0)


def test_process_that_was_killed_is_replaced(pool: ProcessPool) -> None:
    pid = pool.call(os.getpid)
    os.kill(pid, signal.SIGKILL)
    await_gone([pid])
    assert pool.call(os.getpid) not in (pid, os.getpid())
    with pytest.raises(ProcessDiedError):
        pool.call(os._exit, 1)
    assert pool.call(operator.add, 1, 2) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space")
def test_call_that_needs_more_memory_than_a_process_may_have_is_an_error() -> None:
    pool = ProcessPool(1, max_bytes=1024**3)
    with pytest.raises(ProcessDiedError, match="more memory"):
        pool.call(operator.mul, [0], 10**9)
    assert pool.call(operator.mul, [0], 2) == [0, 0]
    pool.close()


def test_call_that_is_cancelled_ends_its_process(pool: ProcessPool) -> None:
    handle = CallHandle()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(pool.call, time.sleep, 600, handle=handle)
        wait_until("it runs", lambda: bool(pool.pids))
        pids = pool.pids
        handle.cancel()
        with pytest.raises(CallCancelledError):
            call.result()
    await_gone(pids)
    with pytest.raises(CallCancelledError):
        pool.call(time.sleep, 600, handle=handle)


def test_idle_process_ends() -> None:
    pool = ProcessPool(1, idle_seconds=0.01)
    await_gone([pool.call(os.getpid)])
    wait_until("it is forgotten", lambda: pool.pids == [])
    pool.close()


def test_calls_at_once_take_no_more_processes_than_allowed() -> None:
    pool = ProcessPool(2)
    barrier = threading.Barrier(6)

    def call(_: int) -> int:
        barrier.wait()
        return pool.call(os.getpid)

    with ThreadPoolExecutor(6) as threads:
        assert len(set(threads.map(call, range(6)))) <= 2
    pool.close()


def test_process_ends_with_its_parent_during_a_call() -> None:
    script = (
        "import threading, time\n"
        "from stitchwork.processes.pool import ProcessPool\n"
        "pool = ProcessPool(1)\n"
        "pool.call(time.sleep, 0)\n"
        "threading.Thread(target=pool.call, args=(time.sleep, 600)).start()\n"
        "print(*pool.pids, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    await_gone([pid])
