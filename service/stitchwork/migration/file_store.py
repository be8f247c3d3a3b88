"""What stores have in common that are files on this machine."""

from abc import abstractmethod
from pathlib import Path
from typing import BinaryIO, Final

from stitchwork.errors import ConflictError
from stitchwork.migration.base_store import BaseStore
from stitchwork.migration.part_files import PARTS, PartFiles, remove_parts

REMOVED: Final = "removed"
"""The revision of a file that does not exist."""


class FileStore(BaseStore):
    """A file, or a folder of files, that is written in parts.

    Args:
        path: The file or folder.
        name: What messages call it.
    """

    SUFFIX = ""
    """Of the file, and of its parts unless they are of another format."""

    def __init__(self, path: Path, name: str) -> None:
        # Tasks of engines on several machines have other working folders.
        self.name, self._path = name, path.absolute()
        self._parts: PartFiles | None = None
        self._folder: Path | None = None

    def revision(self) -> str:
        """Size and time of the file."""
        return file_revision(self._path)

    def exists(self) -> bool:
        """Whether there is a file or folder of this name."""
        return self._path.exists()

    def finish(self) -> None:
        """Write the parts to one file."""
        if self._parts is not None:
            self._parts.merge(self._path, self._append)
        elif self._folder is not None:
            # The file is complete, and their removal may have been interrupted.
            remove_parts(self._folder, self._path)

    def _prepare(self, folder: Path) -> None:
        """Open the folder of parts, unless the store is complete."""
        self._folder = folder.absolute() / PARTS
        if not self._path.exists():
            self._parts = PartFiles(self._folder, self._part_suffix)

    @property
    def _part_suffix(self) -> str:
        """Of the parts' names."""
        return self.SUFFIX

    @property
    def _part_files(self) -> PartFiles:
        if self._parts is None:
            raise ConflictError(f"{self.name} exists: something else has written it meanwhile")
        return self._parts

    @abstractmethod
    def _append(self, file: BinaryIO, paths: list[Path]) -> None:
        """Write the content of the parts to one file."""


def file_revision(path: Path) -> str:
    """Size and time of a file; a removed one has changed too."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return REMOVED
    return f"{stat.st_size}@{stat.st_mtime_ns}"
