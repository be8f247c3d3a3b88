"""What commands read and write: lines, image files, and .npy files of any size."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
from numpy.lib import format as npy

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError

IMAGES: Final = (".jpeg", ".jpg", ".png", ".webp")


class NpyRows:
    """An .npy file of rows that is read a part at a time, so that it is never in memory.

    Attributes:
        shape: (n, d).

    Raises:
        InvalidInputError: If it is no .npy file, or does not hold rows of floats.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Maps the file to read its header, and checks that it is as long as that says.
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InvalidInputError(f"{path}: expected an .npy file of numbers: {error}") from error
        if not isinstance(mapped, np.memmap) or mapped.ndim != 2 or mapped.dtype.kind != "f":
            found = f"{mapped.dtype} of {mapped.shape}" if hasattr(mapped, "dtype") else "an .npz"
            raise InvalidInputError(f"{path}: expected rows (n, d) of floats, got {found}")
        self.shape: tuple[int, int] = mapped.shape
        # Written by columns, rows are gathered from all over the file.
        self._columns = None if mapped.flags.c_contiguous else mapped
        self._path, self._dtype, self._offset = path, mapped.dtype, mapped.offset

    def __getitem__(self, part: slice, /) -> Any:
        """Some of the rows, read from the file."""
        if self._columns is not None:
            return np.array(self._columns[part], order="C")
        start, stop, _ = part.indices(self.shape[0])
        width = self.shape[1]
        at = self._offset + start * width * self._dtype.itemsize
        rows = np.fromfile(self._path, self._dtype, (stop - start) * width, offset=at)
        return rows.reshape(-1, width)


class NpySink:
    """An .npy file of float32 rows that is written a part at a time, in any order.

    The file has a name of its own until the last part is there.

    Args:
        path: Where it is to be.
        count: How many rows there will be.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count
        self._part = path.with_name(path.name + ".part")
        self._file = self._part.open("wb")
        self._start = 0
        self.width = 0

    def __setitem__(self, part: slice, rows: Floats, /) -> None:
        """Write some of the rows; the first ones say how wide all are."""
        if not self._start:
            self.width = rows.shape[1]
            described = {"descr": "<f4", "fortran_order": False, "shape": (self._count, self.width)}
            npy.write_array_header_1_0(self._file, described)
            self._start = self._file.tell()
        self._file.seek(self._start + part.start * self.width * 4)
        self._file.write(np.ascontiguousarray(rows, "<f4").data)

    def close(self, *, complete: bool) -> None:
        """Give the file its name, or remove it."""
        self._file.close()
        if complete:
            self._part.replace(self._path)
        else:
            self._part.unlink()


@contextmanager
def npy_sink(path: Path, count: int) -> Iterator[NpySink]:
    """A file that is there in full when all went well, and not at all otherwise."""
    sink = NpySink(path, count)
    complete = False
    try:
        yield sink
        complete = True
    finally:
        sink.close(complete=complete)


class Files(Sequence[bytes]):
    """The contents of files, each read when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, at: int, /) -> bytes: ...
    @overload
    def __getitem__(self, at: slice, /) -> "Files": ...
    def __getitem__(self, at: int | slice, /) -> "bytes | Files":
        """The bytes of one file."""
        return Files(self.paths[at]) if isinstance(at, slice) else self.paths[at].read_bytes()


def lines(path: str | Path) -> list[str]:
    """The lines of a file of UTF-8, or of the standard input.

    Raises:
        InvalidInputError: If it is no UTF-8.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: expected texts of UTF-8, a line each") from error
    # `splitlines` would split at characters that may stand within a text.
    found = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in found]


def items(options: argparse.Namespace, default: str | None = None) -> list[str] | Files | None:
    """The texts or images that a command was given; None for neither.

    Raises:
        InvalidInputError: If it was given both, or if there is no image.
    """
    if options.texts and options.images:
        raise InvalidInputError("expected --texts or --images, got both")
    if options.images:
        return Files(_image_paths(options.images))
    source = options.texts or default
    return None if source is None else lines(source)


def named(given: Sequence[str] | Files) -> list[str]:
    """What to call each input in a table: an image's path, a text itself."""
    return [str(path) for path in given.paths] if isinstance(given, Files) else list(given)


def _image_paths(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
        else:
            found.append(path)
    if not found:
        raise InvalidInputError(f"expected images ({', '.join(IMAGES)}), found none")
    return found
