"""Servers, API processes and workers of a drill's own, each a real process that may be killed."""

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final, Self

import httpx
import numpy as np
import redis

from stitchwork.resources import Floats
from stitchwork.supervisor.service_process import listen
from tests.support.servers import (
    QUEUE_FLAGS,
    REGISTRY_FLAGS,
    ServerBinary,
    ServerProcess,
    pause,
)

START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 60.0


class Process:
    """One process of the service, as `python -m service` starts it."""

    def __init__(self, command: tuple[str, ...], env: dict[str, str], log: Path) -> None:
        self._log = log
        self._listener = listen("127.0.0.1", 0) if "api" in command else None
        keep: tuple[int, ...] = ()
        if self._listener:
            self.url = "http://{}:{}".format(*self._listener.getsockname())
            keep = (self._listener.fileno(),)
            command = (*command, "--fd", str(keep[0]))
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, env=env, stderr=output, pass_fds=keep)
        if self._listener:
            # Whoever asks once the process is dead is refused and does not wait in a queue.
            self._listener.close()

    def said(self) -> str:
        """All that it has logged."""
        return self._log.read_text()

    def kill(self) -> None:
        """End it as a loss of power would."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def pause(self) -> None:
        """From here on it does nothing."""
        pause(self.process)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """End it in order; the exit code."""
        self.resume()
        self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Cluster:
    """A registry server, a queue server, and the processes that a drill starts on them."""

    def __init__(self, binary: ServerBinary, **env: str) -> None:
        self.binary = binary
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="sw")))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("STITCHWORK")}
        self._env = {
            **kept,
            "STITCHWORK_LOG_LEVEL": "warning",
            "STITCHWORK_OFFLINE": "true",
            "OMP_NUM_THREADS": "1",
            **env,
        }
        self.registry = self._server("registry", REGISTRY_FLAGS)
        self.queue = self._server("queue", QUEUE_FLAGS)
        self.records = self._client(self.registry)
        self.jobs = self._client(self.queue)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def api(self, **env: str) -> Process:
        """One more API process, which answers when this returns."""
        started = self.start("api", **env)
        with httpx.Client(timeout=START_SECONDS) as http:
            assert http.get(f"{started.url}/health/live").status_code == 200
        return started

    def start(self, name: str, *before: str, **env: str) -> Process:
        """A process of the service by its command's name, perhaps under another program."""
        self._count += 1
        command = (*before, sys.executable, "-m", "stitchwork", name)
        urls = {
            "STITCHWORK_REDIS_URL": self.registry.url,
            "STITCHWORK_QUEUE_URL": self.queue.url,
        }
        log = self.folder / f"{name}-{self._count}.log"
        started = Process(command, {**self._env, **urls, **env}, log)
        self._stack.callback(_end, started)
        return started

    def contents(self) -> dict[bytes, Any]:
        """All that the registry holds, key by key."""
        keys: Any = self.records.keys("*")
        return {key: self.records.dump(key) for key in keys}

    def inverses(self) -> set[bytes]:
        """The keys of the inverses that are cached, their locks left out."""
        keys: Any = self.jobs.keys("stitchwork:inverse:*")
        return {key for key in keys if not key.endswith(b":lock")}

    def listener(self) -> Any:
        """Hears what happens on the queue server; redis-py gives it no types."""
        pubsub: Any = self.jobs.pubsub
        return pubsub()

    def cached(self, key: str) -> bytes:
        """The bytes of one key of the queue server; empty if there are none."""
        found: Any = self.jobs.hget(key, "0")
        return bytes(found or b"")

    def _server(self, name: str, flags: tuple[str, ...]) -> ServerProcess:
        home = self.folder / name
        home.mkdir()
        server = ServerProcess(home, flags, self.binary)
        self._stack.callback(_end_server, server)
        return server

    def _client(self, server: ServerProcess) -> redis.Redis:
        client = redis.Redis.from_url(server.url)
        self._stack.callback(client.close)
        return client


class BoundedClient:
    """A client of one API process that bounds every call.

    Args:
        url: Where the process answers.
        seconds: What one call may take, or the drill fails.
    """

    def __init__(self, url: str, seconds: float = 30.0) -> None:
        self._http = httpx.Client(base_url=url, timeout=seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request with a JSON body."""
        return self._http.request(method, path, json=body, headers=headers)

    def put_space(self, id_: str, anchors: Floats, **told: Any) -> httpx.Response:
        """Register a space by its anchors, on the set S unless told otherwise."""
        body = {"anchor_set": "S", "anchors": anchors.tolist(), **told}
        return self.send("PUT", f"/spaces/{id_}", body)

    def translate(
        self, rows: Floats, source: str, target: str, bridge: str = "ridge"
    ) -> httpx.Response:
        """Translate rows of one space into another."""
        body = {"source": source, "target": target, "bridge": bridge, "embeddings": rows.tolist()}
        return self.send("POST", "/translate", body)

    def ready(self) -> bool:
        """Whether all that the process needs is there."""
        return bool(self.send("GET", "/health/ready").is_success)


def rows_of(answer: httpx.Response) -> Floats:
    """The embeddings of an answer."""
    assert answer.status_code == 200, answer.text
    return np.asarray(answer.json()["embeddings"], np.float32)


def version_of(answer: httpx.Response, role: str) -> str:
    """The version that an answer names for one of its spaces."""
    found = re.fullmatch(r".+@([0-9a-f]{32})", answer.headers[f"Stitchwork-{role}"])
    assert found
    return found[1]


def is_stale(answer: httpx.Response) -> bool:
    """Whether an answer says that it may be outdated."""
    return bool(answer.headers.get("Stitchwork-Stale") == "true")


def refused(answer: httpx.Response) -> bool:
    """Whether an answer asks to try again later."""
    return answer.status_code in (429, 503) and int(answer.headers["Retry-After"]) > 0


def _end(process: Process) -> None:
    if process.process.poll() is None:
        process.kill()


def _end_server(server: ServerProcess) -> None:
    server.resume()
    server.stop(kill=True)
