"""Snapshots of a model's files: what they hold, and whether they have changed since."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from stitchwork.errors import ErrorCode, JobFailedError

SETTLED_SECONDS: Final = 2.0
"""A file that was changed this recently can change again without another time of modification:
the coarsest file systems count in steps of two seconds."""
ATTEMPTS: Final = 5
"""Attempts to read files that change meanwhile."""
MAX_LISTED: Final = 5
"""Files that a description of changes names; it counts the others."""


class FileStat(NamedTuple):
    """What changes whenever a file is written, replaced or pointed elsewhere."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int


class FileDigest(NamedTuple):
    """The content of a file.

    Attributes:
        stat: Its state when it was read.
        sha256: SHA-256 of its content, in hexadecimal.
        first_read: When it was first read in this state, by the monotonic clock.
        is_settled: Whether a later change must show in its state.
    """

    stat: FileStat
    sha256: str
    first_read: float
    is_settled: bool


@dataclass(frozen=True, slots=True)
class FileList:
    """The files that a model is loaded from.

    Attributes:
        root: The folder, or the file, that they belong to.
        files: Paths by their names, which do not depend on where the model is.
        watched: Folders and further paths whose changes may add or remove a file.
    """

    root: Path
    files: Mapping[str, Path]
    watched: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class FileSnapshot:
    """The content of a model's files at one time.

    Attributes:
        listed: The files.
        watched: States of the paths that were watched; None where nothing was.
        digests: Contents by the names of the files.
        digest: 32 hexadecimal digits, equal on every machine for files of equal names and
            contents.
    """

    listed: FileList
    watched: tuple[FileStat | None, ...]
    digests: Mapping[str, FileDigest]
    digest: str

    def is_current(self) -> bool:
        """Whether the files certainly hold the same; costs one `stat` for each."""
        if any(not digest.is_settled for digest in self.digests.values()):
            return False
        stats = (self.digests[name].stat for name in self.listed.files)
        return self.watched == tuple(map(file_stat, self.listed.watched)) and all(
            stat == file_stat(path)
            for stat, path in zip(stats, self.listed.files.values(), strict=True)
        )

    def changes(self, later: "FileSnapshot") -> str:
        """The files that differ in a later snapshot; empty if none does."""
        parts = []
        for name in sorted(self.digests.keys() | later.digests.keys()):
            before, after = self.digests.get(name), later.digests.get(name)
            if after is None:
                parts.append(f"{name} was removed")
            elif before is None:
                parts.append(f"{name} was added")
            elif before.sha256 != after.sha256:
                sizes = f"{before.stat.size} to {after.stat.size} bytes"
                is_resized = before.stat.size != after.stat.size
                parts.append(f"{name} was changed" + (f" from {sizes}" if is_resized else ""))
        others = len(parts) - MAX_LISTED
        return ", ".join(parts[:MAX_LISTED]) + (f" and {others} others" if others > 0 else "")


def take_snapshot(
    list_files: Callable[[], FileList], name: str, previous: FileSnapshot | None = None
) -> FileSnapshot:
    """Read the content of a model's files.

    Args:
        list_files: Lists the files; it is called again if they change while they are read.
        name: Name of the model in errors.
        previous: An earlier snapshot; files that have certainly not changed since are not read.

    Raises:
        JobFailedError: If the files change whenever they are read.
        OSError: If a file cannot be read.
    """
    known = dict(previous.digests) if previous else {}
    for _ in range(ATTEMPTS):
        listed = list_files()
        watched = tuple(map(file_stat, listed.watched))
        digests = {}
        for file, path in listed.files.items():
            digest = _read(path, known.get(file))
            if digest is None:
                break
            digests[file] = known[file] = digest
        else:
            if watched == tuple(map(file_stat, listed.watched)):
                return FileSnapshot(listed, watched, digests, _digest(digests))
    raise JobFailedError(
        f"the files of {name} change while they are read: wait until they are written",
        code=ErrorCode.LOAD_FAILED,
    )


def _digest(digests: Mapping[str, FileDigest]) -> str:
    lines = [f"{name}\0{digests[name].sha256}\n" for name in sorted(digests)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def file_stat(path: Path) -> FileStat | None:
    """The state of what a path leads to, through symbolic links; None if there is nothing."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return FileStat(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)


def _read(path: Path, known: FileDigest | None) -> FileDigest | None:
    """The content of a file; None if it changes meanwhile, or is gone."""
    before = file_stat(path)
    if before is None:
        return None
    if known is not None and known.stat == before and known.is_settled:
        return known
    now = time.monotonic()
    latest = max(before.modified_ns, before.changed_ns) / 1e9
    is_settled = time.time() - latest > SETTLED_SECONDS
    first_read = now
    if known is not None and known.stat == before:
        # Where the clock of the file system is ahead, it has settled once it was read twice.
        first_read = known.first_read
        is_settled = is_settled or now - first_read > SETTLED_SECONDS
    try:
        with path.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    if file_stat(path) != before:
        return None
    return FileDigest(before, sha256, first_read, is_settled)
