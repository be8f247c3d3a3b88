"""A registry server, a queue server, API processes and workers: real processes to be killed."""

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
import orjson
import redis

from stitchwork.processes.listener import listen
from stitchwork.redis import PREFIX
from stitchwork.registry.change_log_start import STATE
from stitchwork.registry.space_checks import DUE
from stitchwork.resources import Floats
from stitchwork.settings import Settings
from tests.support import machine
from tests.support.change_logs import begin_change_log_at
from tests.support.servers import (
    QUEUE_FLAGS,
    REGISTRY_FLAGS,
    ServerBinary,
    ServerProcess,
    pause,
)

START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 60.0
CALL_SECONDS: Final = 30.0
CHECKED_FIELDS: Final = ("agreement", "checks", "warnings")
"""Fields of a space that its comparisons with others change."""


def _without_checks(value: bytes) -> Any:
    """A value of the registry or, of a record, its fields that checks do not change."""
    if not value.startswith(b'{"format"'):
        return value
    fields: dict[str, Any] = orjson.loads(value)
    return {name: v for name, v in fields.items() if name not in CHECKED_FIELDS}


class Process:
    """One process of the service, as `python -m stitchwork` starts it."""

    def __init__(self, command: tuple[str, ...], env: dict[str, str], log: Path) -> None:
        self._log_file = log
        self._listener = listen("127.0.0.1", 0) if "api" in command else None
        descriptors: tuple[int, ...] = ()
        if self._listener:
            self.url = "http://{}:{}".format(*self._listener.getsockname())
            descriptors = (self._listener.fileno(),)
            command = (*command, "--fd", str(descriptors[0]))
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, env=env, stderr=output, pass_fds=descriptors)
        if self._listener:
            # With this copy closed, a connection to a dead process is refused at once.
            self._listener.close()

    def log(self) -> str:
        """All that it has logged."""
        return self._log_file.read_text()

    def kill(self) -> None:
        """End it as a loss of power would."""
        self.process.kill()
        self.process.wait(machine.deadline(STOP_SECONDS))

    def pause(self) -> None:
        """From now on it does nothing."""
        pause(self.process)

    def resume(self) -> None:
        """Undo `pause`."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """End it in order.

        Returns:
            The exit code.
        """
        self.resume()
        self.process.terminate()
        try:
            return self.process.wait(machine.deadline(STOP_SECONDS))
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Cluster:
    """A registry server, a queue server, and the processes that a test starts on them.

    Args:
        binary: Which server the two are.
        env: Settings of every process, as environment variables.
    """

    def __init__(self, binary: ServerBinary, **env: str) -> None:
        self.binary = binary
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="sw")))
        self._env = {
            **foreign_environment(),
            "STITCHWORK_LOG_LEVEL": "warning",
            "STITCHWORK_OFFLINE": "true",
            "STITCHWORK_REQUEST_TIMEOUT_SECONDS": str(machine.deadline(CALL_SECONDS)),
            "OMP_NUM_THREADS": "1",
            **checked_settings(env),
        }
        self.registry = self._server("registry", REGISTRY_FLAGS)
        self.queue = self._server("queue", QUEUE_FLAGS)
        self.records = self._client(self.registry)
        # The supervisor does so for a new registry, on which no process can have a lease.
        begin_change_log_at(self.registry.url)
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

    def api(self, code: str = "", **env: str) -> Process:
        """Start another API process; it answers when this returns."""
        started = self.start("api", code=code, **env)
        with httpx.Client(timeout=machine.deadline(START_SECONDS)) as http:
            assert http.get(f"{started.url}/health/live").status_code == 200
        return started

    def start(self, name: str, *prefix: str, code: str = "", **env: str) -> Process:
        """Start a process of the service by its command.

        Args:
            name: The command.
            prefix: Words of another program that runs it.
            code: Python code that runs it instead of the package, with the same arguments.
            env: More settings, as environment variables.
        """
        self._count += 1
        program = ("-c", code) if code else ("-m", "stitchwork")
        command = (*prefix, sys.executable, "-P", *program, name)
        urls = {
            "STITCHWORK_REDIS_URL": self.registry.url,
            "STITCHWORK_QUEUE_URL": self.queue.url,
        }
        log = self.folder / f"{name}-{self._count}.log"
        started = Process(command, {**self._env, **urls, **checked_settings(env)}, log)
        self._stack.callback(_end, started)
        return started

    def contents(self) -> dict[bytes, Any]:
        """What is registered: the registry's keys with their values.

        Without leases and without the results of checks, which run in the background.
        """
        keys: Any = self.records.keys("*")
        changing = tuple((PREFIX + name).encode() for name in (STATE, DUE))
        return {key: self._value(key) for key in keys if not key.startswith(changing)}

    def _value(self, key: bytes) -> Any:
        match self.records.type(key):
            case b"hash":
                fields: Any = self.records.hgetall(key)
                return {name: _without_checks(value) for name, value in fields.items()}
            case b"set":
                members: Any = self.records.smembers(key)
                return members
            case _:
                return self.records.dump(key)

    def inverses(self) -> set[bytes]:
        """The keys of the cached inverses, without those of their locks."""
        keys: Any = self.jobs.keys("stitchwork:inverse:*")
        return {key for key in keys if not key.endswith(b":lock")}

    def locks(self) -> set[bytes]:
        """The keys of the locks of inverses that are computed."""
        keys: Any = self.jobs.keys("stitchwork:inverse:*:lock")
        return set(keys)

    def subscriber(self) -> Any:
        """A subscriber to the queue server's channels, which redis-py does not type."""
        pubsub: Any = self.jobs.pubsub
        return pubsub()

    def cached_bytes(self, key: str) -> bytes:
        """The cached array under a key of the queue server; empty if there is none."""
        value: Any = self.jobs.hget(key, "0")
        return bytes(value or b"")

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
        seconds: How long one call may take on an idle machine; a call that takes longer raises
            `httpx.TimeoutException`.
    """

    def __init__(self, url: str, seconds: float = CALL_SECONDS) -> None:
        self._http = httpx.Client(base_url=url, timeout=machine.deadline(seconds))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request with a JSON body."""
        return self._http.request(method, path, json=body, headers=headers)

    def put_space(self, id_: str, anchors: Floats, **fields: Any) -> httpx.Response:
        """Register a space by its anchors, on the set S by default."""
        body = {"anchor_set": "S", "anchors": anchors.tolist(), **fields}
        return self.send("PUT", f"/spaces/{id_}", body)

    def translate(
        self, rows: Floats, source: str, target: str, bridge: str = "ridge"
    ) -> httpx.Response:
        """Translate rows of one space into another."""
        body = {"source": source, "target": target, "bridge": bridge, "embeddings": rows.tolist()}
        return self.send("POST", "/translate", body)

    def ready(self) -> bool:
        """Whether the process reports itself ready, and a live worker."""
        return bool(self.send("GET", "/health/ready?workers=1").is_success)


def foreign_environment() -> dict[str, str]:
    """This process's environment without the settings of a service."""
    return {key: value for key, value in os.environ.items() if not key.startswith("STITCHWORK_")}


def checked_settings(env: dict[str, str]) -> dict[str, str]:
    """The same variables, all of which are settings: a mistyped one would change nothing."""
    names = {f"STITCHWORK_{name.upper()}" for name in Settings.model_fields}
    unknown = {key for key in env if key.startswith("STITCHWORK_")} - names
    assert not unknown, f"no settings: {sorted(unknown)}"
    return env


def rows_of(response: httpx.Response) -> Floats:
    """The embeddings of a response."""
    assert response.status_code == 200, response.text
    return np.asarray(response.json()["embeddings"], np.float32)


def version_of(response: httpx.Response, role: str) -> str:
    """The version that a response names for one of its spaces."""
    version = re.fullmatch(r".+@([0-9a-f]{32})", response.headers[f"Stitchwork-{role}"])
    assert version, response.headers
    return version[1]


def is_stale(response: httpx.Response) -> bool:
    """Whether a response says that it may be outdated."""
    return bool(response.headers.get("Stitchwork-Stale") == "true")


def is_refusal(response: httpx.Response) -> bool:
    """Whether a response asks to try again later."""
    return response.status_code in (429, 503) and int(response.headers["Retry-After"]) > 0


def _end(process: Process) -> None:
    if process.process.poll() is None:
        process.kill()


def _end_server(server: ServerProcess) -> None:
    server.resume()
    server.stop(kill=True)
