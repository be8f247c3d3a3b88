"""Files of blocks, each written aside and renamed, which become one file at the end."""

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from shutil import rmtree
from typing import Any, BinaryIO, Final

from stitchwork.errors import ConflictError

TEMPORARY: Final = ".new"
"""Suffix of a file that is not complete."""
TOKEN_BYTES: Final = 4
"""Of the part of a temporary name that is random."""
PARTS: Final = "parts"
"""Folder of the files of blocks, in that of the checkpoint."""
NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)
"""Errors of file systems without hard links."""


@contextmanager
def replacement(path: Path) -> Iterator[BinaryIO]:
    """A new file that has its name only once it is complete and on the disk."""
    with _temporary(path) as new:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


@contextmanager
def creation(path: Path) -> Iterator[BinaryIO]:
    """Like `replacement`, of a file that must not exist.

    Raises:
        ConflictError: If it exists at the end; it is not changed.
    """
    remove_leftovers(path)
    with _temporary(path) as new, new.open("wb") as file:
        # Marks the file as one that is in use.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
        file.flush()
        os.fsync(file.fileno())
        try:
            _rename_exclusively(new, path)
        except FileExistsError as error:
            raise _conflict(path) from error


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside a file that no other process uses; the file of this name is removed."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(TOKEN_BYTES)}{TEMPORARY}")
    try:
        yield new
    finally:
        new.unlink(missing_ok=True)


def _rename_exclusively(new: Path, path: Path) -> None:
    try:
        os.link(new, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(path) from error
        new.replace(path)


def remove_parts(folder: Path, target: Path) -> None:
    """Remove what a process that was killed after it completed a target left."""
    rmtree(folder, ignore_errors=True)
    remove_leftovers(target)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote a file."""
    token = "[0-9a-f]" * 2 * TOKEN_BYTES
    for new in path.parent.glob(f"{escape(path.name)}.{token}{TEMPORARY}"):
        with suppress(FileNotFoundError, BlockingIOError), new.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.unlink()


def _conflict(path: Path) -> ConflictError:
    return ConflictError(
        f"{path} exists: something else has written it during the move; choose another target"
    )


class PartFiles:
    """The files of the blocks of one store.

    Args:
        folder: Where they are until the end; it is made if it does not exist.
        suffix: Of their names.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self._suffix = folder, suffix
        folder.mkdir(exist_ok=True)

    def path(self, block: int) -> Path:
        """The file of a block."""
        return self.folder / f"part-{block:06d}{self._suffix}"

    def paths(self) -> list[Path]:
        """The files in the order of their blocks."""
        return sorted(self.folder.glob(f"part-*{self._suffix}"))

    @contextmanager
    def write(self, block: int) -> Iterator[BinaryIO]:
        """The file of a block; it replaces an earlier one once it is complete."""
        with replacement(self.path(block)) as file:
            yield file

    def merge(self, target: Path, append: Callable[[BinaryIO, list[Path]], Any]) -> None:
        """Write one file of all parts, and remove these.

        Args:
            target: The file, which must not exist.
            append: Writes the content of the parts to a file.

        Raises:
            ConflictError: If something else has written the target.
        """
        with creation(target) as file:
            append(file, self.paths())
        rmtree(self.folder)

    def become(self, target: Path) -> None:
        """Rename the folder of parts, which then has no others.

        Raises:
            ConflictError: If something else has written the target.
        """
        for path in self.folder.glob(f"*{TEMPORARY}"):
            path.unlink()
        try:
            self.folder.rename(target)
        except OSError as error:
            if target.exists():
                raise _conflict(target) from error
            raise
