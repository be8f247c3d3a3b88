"""Files that rows are written to a part at a time, in any order: the name decides the format."""

import io
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import NDArray

from stitchwork.client.partial_results import PartialResult, part_path, state_path
from stitchwork.errors import InvalidInputError

SUFFIXES: Final = (".npy", ".npz", ".safetensors", ".parquet")
RESUMABLE_SUFFIXES: Final = (".npy", ".safetensors")
"""Formats whose rows are written where they belong; the others are written in order."""
STATE_SECONDS: Final = 1.0
"""How often the state of a file is saved."""
NAME: Final = "embeddings"
"""Name of the array in files that name their arrays."""
ALIGNMENT: Final = 8


class Writer(Protocol):
    """Writes rows in order."""

    def write(self, rows: NDArray[np.float32], /) -> None:
        """Write the next rows."""

    def close(self) -> None:
        """Write the end of the file."""


class NpzWriter:
    """Writes rows to an .npz file, in order.

    Args:
        path: The file.
        count: Number of all rows.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._archive = zipfile.ZipFile(path, "w")
        self._member = self._archive.open(f"{NAME}.npy", "w", force_zip64=True)
        self._count, self._is_begun = count, False

    def write(self, rows: NDArray[np.float32], /) -> None:
        """Write the next rows."""
        if not self._is_begun:
            self._is_begun = True
            self._member.write(_npy_header((self._count, rows.shape[1])))
        self._member.write(np.ascontiguousarray(rows, "<f4").tobytes())

    def close(self) -> None:
        """Write the end of the file."""
        self._member.close()
        self._archive.close()


class RowSink:
    """A file of float32 rows. It has a temporary name until it is complete.

    Args:
        path: The file; its name ends in .npy, .npz, .safetensors or .parquet.
        partial: Which rows are complete; those of an earlier call are in the temporary file.
        source: What the rows are computed from, whose other columns a Parquet file takes over.

    Attributes:
        width: Numbers in a row; 0 before the first one is written.

    Raises:
        InvalidInputError: If the name ends otherwise, the folder does not exist, or there is no
            file to resume.
    """

    def __init__(self, path: Path, partial: PartialResult, source: Any = None) -> None:
        check_output(path)
        self._path, self._partial, self._source = path, partial, source
        self._part, self._state = part_path(path), state_path(path)
        self._count = partial.total
        self._saved_at = time.monotonic()
        self._is_resumable = path.suffix.lower() in RESUMABLE_SUFFIXES
        is_new = not partial.parts
        if not is_new and not (self._is_resumable and self._part.exists()):
            expected = f"{' or '.join(RESUMABLE_SUFFIXES)} and the rows in {self._part}"
            raise InvalidInputError(f"{path} cannot be resumed: expected a name in {expected}")
        # A folder that cannot be written to is refused before the first request.
        self._file = self._part.open("wb+" if is_new else "rb+")
        self._state.unlink(missing_ok=True)
        self._offset = 0
        self._writer: Writer | None = None
        self._early: dict[int, NDArray[np.float32]] = {}
        self._next = 0
        self.width = 0
        if partial.width:
            self._begin(partial.width)

    def __setitem__(self, part: slice, rows: NDArray[np.float32], /) -> None:
        """Write some of the rows; the first ones determine the width of all."""
        if not self.width:
            self._begin(rows.shape[1])
        if self._writer is None:
            self._file.seek(self._offset + part.start * self.width * 4)
            self._file.write(np.ascontiguousarray(rows, "<f4").data)
            return
        self._early[part.start] = np.array(rows, np.float32)
        while self._next in self._early:
            following = self._early.pop(self._next)
            self._writer.write(following)
            self._next += len(following)

    def save_state(self, min_seconds: float = STATE_SECONDS) -> None:
        """Save which rows are complete, unless that was done less than so many seconds ago."""
        if self._is_resumable and time.monotonic() - self._saved_at >= min_seconds:
            self._file.flush()
            new = self._state.with_suffix(".new")
            new.write_bytes(self._partial.to_json())
            new.replace(self._state)
            self._saved_at = time.monotonic()

    def close(self, *, complete: bool) -> None:
        """Rename the file to its final name; an incomplete one is removed or can be resumed."""
        if self._writer is not None:
            self._writer.close()
        if not complete and self._partial.parts:
            self.save_state(0.0)
        self._file.close()
        if complete:
            self._part.replace(self._path)
            self._state.unlink(missing_ok=True)
        elif not (self._is_resumable and self._partial.parts):
            self._part.unlink()

    def _begin(self, width: int) -> None:
        self.width, shape = width, (self._count, width)
        suffix = self._path.suffix.lower()
        if suffix in (".npy", ".safetensors"):
            header = _npy_header(shape) if suffix == ".npy" else _safetensors_header(shape)
            self._file.write(header)
            self._offset = len(header)
        elif suffix == ".npz":
            self._writer = NpzWriter(self._part, self._count)
        else:
            from stitchwork.client.parquet_files import ParquetRows, ParquetWriter

            source = getattr(self._source, "rows", self._source)
            source = source if isinstance(source, ParquetRows) else None
            self._writer = ParquetWriter(self._part, source)


def check_output(path: Path) -> None:
    """Check that a file of rows can be written.

    Raises:
        InvalidInputError: If its name has no suffix of `SUFFIXES`, its folder does not exist, or
            its format needs a package that is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInputError(
            f"{path}: expected a name that ends in {', '.join(SUFFIXES)}: it decides the format"
        )
    if not path.parent.is_dir():
        raise InvalidInputError(f"the folder {path.parent} does not exist")
    if path.suffix.lower() == ".parquet":
        from stitchwork.client.parquet_files import check_installed

        check_installed()


@contextmanager
def open_sink(path: Path, partial: PartialResult, source: Any = None) -> Iterator[RowSink]:
    """A file that has its name if all went well; otherwise it can be resumed, or does not exist."""
    sink = RowSink(path, partial, source)
    complete = False
    try:
        yield sink
        complete = True
    finally:
        sink.close(complete=complete)


def _npy_header(shape: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def _safetensors_header(shape: tuple[int, int]) -> bytes:
    size = shape[0] * shape[1] * 4
    entry = {"dtype": "F32", "shape": shape, "data_offsets": (0, size)}
    header = orjson.dumps({NAME: entry})
    header += b" " * (-len(header) % ALIGNMENT)
    return len(header).to_bytes(ALIGNMENT, "little") + header
