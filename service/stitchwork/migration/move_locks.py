"""Locks by which two moves never write to one target, or use one checkpoint."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stitchwork.errors import ConflictError
from stitchwork.migration.stores import target_key


@contextmanager
def exclusive_move(folder: Path, target: str) -> Iterator[None]:
    """A context that only one process of this machine enters for a checkpoint or a target.

    The locks end with the process, whatever ends it.

    Args:
        folder: The folder of the checkpoint; it is made, and removed if it is empty at the end.
        target: Name of the target store.

    Raises:
        ConflictError: If another move uses the checkpoint or writes to the target.
    """
    with (
        _target_lock(target, f"another move to {target} is running"),
        _folder_lock(folder, f"another move with the checkpoint {folder} is running"),
    ):
        yield


@contextmanager
def _target_lock(target: str, conflict: str) -> Iterator[None]:
    """A lock on an empty file of this user, by the digest of the target's kind and address."""
    folder = Path(tempfile.gettempdir()) / f"stitchwork-moves-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConflictError(f"{folder}: expected a folder of this user, for locks of moves")
    path = folder / hashlib.sha256(target_key(target).encode()).hexdigest()
    with _lock(path, path.touch, conflict):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _folder_lock(folder: Path, conflict: str) -> Iterator[None]:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with _lock(folder, lambda: folder.mkdir(parents=True, exist_ok=True), conflict):
        try:
            yield
        finally:
            # A move that did not begin leaves no folder.
            with suppress(OSError):
                for path in missing:
                    path.rmdir()


@contextmanager
def _lock(path: Path, make: Callable[[], None], conflict: str) -> Iterator[None]:
    """A lock on a file or folder, which its holder may remove.

    Args:
        path: The file or folder.
        make: Makes it if it does not exist.
        conflict: The error where another process has the lock.
    """
    while True:
        make()
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            # Its holder has removed it meanwhile.
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConflictError(f"{conflict}: wait for it, or stop it") from error
            if _is_at(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
