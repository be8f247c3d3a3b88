"""Ctrl-C, and readers that close a pipe early: no process prints a traceback."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Semaphore, Thread
from typing import Any, Final

import numpy as np
import pytest

from stitchwork.redis.client import RedisClient
from tests.support.processes import read_until, without_settings

SECONDS: Final = 60.0
STITCHWORK: Final = (sys.executable, "-P", "-m", "stitchwork")
PARTS: Final = 3


class SilentService(ThreadingHTTPServer):
    """Answers `/info`, and keeps every other request waiting.

    Attributes:
        waiting: Released for each request that waits.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SilentHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.waiting = Semaphore(0)


class SilentHandler(BaseHTTPRequestHandler):
    server: SilentService

    def do_GET(self) -> None:
        if self.path != "/info":
            self.wait()
            return
        limits = {"max_rows": 100, "max_items": 100, "max_body_bytes": 10**6}
        body = json.dumps({"limits": limits}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wait()

    def wait(self) -> None:
        self.server.waiting.release()
        self.rfile.read(1)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def silent() -> Iterator[SilentService]:
    with SilentService() as service:
        thread = Thread(target=service.serve_forever)
        thread.start()
        yield service
        service.shutdown()
        thread.join()


@contextmanager
def command(*words: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A command in the background."""
    with subprocess.Popen(
        [*STITCHWORK, *words],
        env=without_settings(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Press Ctrl-C; the exit code, and what is on standard error."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    return process.returncode, errors


def test_client_command_ends_with_130(silent: SilentService) -> None:
    with command("spaces", "list", "--url", silent.url) as process:
        assert silent.waiting.acquire(timeout=SECONDS)
        code, errors = interrupt(process)
    assert (code, errors.strip()) == (130, "")


def test_client_command_of_many_parts_ends_with_130(silent: SilentService, tmp_path: Path) -> None:
    rows, out = tmp_path / "in.npy", tmp_path / "out.npy"
    np.save(rows, np.ones((1000, 8), np.float32))
    words = ["translate", str(rows), str(out), "--source", "x", "--target", "y"]
    with command(*words, "--url", silent.url) as process:
        for _ in range(PARTS):
            assert silent.waiting.acquire(timeout=SECONDS)
        code, errors = interrupt(process)
    assert (code, errors.strip()) == (130, "")
    assert list(tmp_path.iterdir()) == [rows]


def test_api_ends_in_order(queue_server: RedisClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with command("api", "--port", str(port), "--redis-url", queue_server.url) as process:
        read_until(process.stderr, "Uvicorn running on")
        code, errors = interrupt(process)
    assert code == 0
    assert "Traceback" not in errors


@pytest.mark.models
def test_worker_ends_in_order(queue_server: RedisClient) -> None:
    with command("worker", "--redis-url", queue_server.url, "--offline") as process:
        read_until(process.stderr, "worker started")
        code, errors = interrupt(process)
    assert code == 0, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("words", [["settings"], ["--help"], ["serve", "--help"]])
def test_closed_pipe_ends_quietly(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [*STITCHWORK, *words],
        env=without_settings(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert result.stderr == ""
