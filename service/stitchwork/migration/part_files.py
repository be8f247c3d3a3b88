"""Files of blocks, each written aside and renamed, which become one file at the end."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any, BinaryIO, Final

TEMPORARY: Final = ".new"
"""Suffix of a file or folder that is not complete."""


@contextmanager
def replacement(path: Path) -> Iterator[BinaryIO]:
    """A new file that has its name only once it is complete and on the disk."""
    new = path.with_name(path.name + TEMPORARY)
    with new.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


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
            target: The file.
            append: Writes the content of the parts to a file.
        """
        with replacement(target) as file:
            append(file, self.paths())
        rmtree(self.folder)

    def become(self, target: Path) -> None:
        """Rename the folder of parts, which then has no others."""
        for path in self.folder.glob(f"*{TEMPORARY}"):
            path.unlink()
        self.folder.rename(target)
