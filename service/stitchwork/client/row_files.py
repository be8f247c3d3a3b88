"""Files of rows that are read a part at a time: .npy, .npz, safetensors and Parquet.

A file's format is that of its content, whatever its name.
"""

import math
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import NDArray

from stitchwork.client.float_rows import EXPECTATION, ScaledRows, parse_scale
from stitchwork.errors import InvalidInputError

NAMES: Final = ("embeddings", "anchors")
"""Names of arrays that are taken if a file has several."""
SCALE: Final = "scale"
"""Name of the array, or of the metadata, that int8 rows are multiplied by."""
BATCH_BYTES: Final = 4 * 1024 * 1024
WINDOW_BYTES: Final = 64 * 1024 * 1024
"""Rows before the last ones that were read stay in memory, for parts that come late."""
TENSOR_TYPES: Final[Mapping[str, str]] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I8": "i1",
}


class ArrayLayout(NamedTuple):
    """Where the rows of a file are.

    Attributes:
        shape: (n, d).
        dtype: Type of the numbers; uint16 for bfloat16.
        offset: Byte at which the first row begins.
        is_bfloat16: Whether the numbers are bfloat16.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offset: int
    is_bfloat16: bool = False


class FileRows:
    """Rows that lie one after the other in a file, read a part at a time.

    Args:
        path: The file.
        layout: Where the rows are.

    Attributes:
        shape: (n, d).
    """

    def __init__(self, path: Path, layout: ArrayLayout) -> None:
        self.shape = layout.shape
        self._path, self._layout = path, layout

    def __getitem__(self, part: slice, /) -> NDArray[Any]:
        """Some of the rows, read from the file: the pages of a map would stay in memory."""
        start, stop, _ = part.indices(self.shape[0])
        width, dtype = self.shape[1], self._layout.dtype
        offset = self._layout.offset + start * width * dtype.itemsize
        flat = np.fromfile(self._path, dtype, (stop - start) * width, offset=offset)
        if self._layout.is_bfloat16:
            flat = (flat.astype("<u4") << 16).view("<f4")
        return flat.reshape(-1, width)


class ColumnMajorRows:
    """An .npy file in column-major order: a row is gathered from all over the file."""

    def __init__(self, mapped: NDArray[Any]) -> None:
        self.shape: tuple[int, ...] = mapped.shape
        self._mapped = mapped

    def __getitem__(self, part: slice, /) -> NDArray[Any]:
        """Some of the rows."""
        return np.array(self._mapped[part], order="C")


class SequentialRows:
    """Rows of a file that can only be read in order, such as a compressed one.

    Parts may be read in nearly any order: the last rows that were read stay in memory, and reading
    begins again for a part before these.

    Args:
        shape: (n, d).
        batches: Returns an iterator over all rows, in arrays of some rows each.
    """

    def __init__(
        self, shape: tuple[int, int], batches: Callable[[], Iterator[NDArray[Any]]]
    ) -> None:
        self.shape = shape
        self._batches = batches
        self._lock = threading.Lock()
        self._restart()

    def __getitem__(self, part: slice, /) -> NDArray[Any]:
        """Some of the rows."""
        start, stop, _ = part.indices(self.shape[0])
        with self._lock:
            if start < self._first:
                self._restart()
            while self._end < stop:
                batch = next(self._iterator)
                self._window.append(batch)
                self._end += len(batch)
                self._drop(start)
            rows = np.concatenate(self._window) if self._window else np.empty((0, self.shape[1]))
            return rows[start - self._first : stop - self._first]

    def _restart(self) -> None:
        self._iterator = self._batches()
        self._window: list[NDArray[Any]] = []
        self._first = self._end = 0

    def _drop(self, start: int) -> None:
        """Drop the first rows of a window that is too large, up to a row that is needed."""
        size = sum(batch.nbytes for batch in self._window)
        while size > WINDOW_BYTES and self._first + len(self._window[0]) <= start:
            batch = self._window.pop(0)
            self._first += len(batch)
            size -= batch.nbytes


def open_rows(path: str | Path, scale: Any = None, column: str | None = None) -> Any:
    """The rows of a file, as `Rows`.

    Args:
        path: An .npy, .npz, safetensors or Parquet file of (n, d) floats, or of int8 with a scale.
            Of several arrays, it is `embeddings` or `anchors`.
        scale: What int8 rows are multiplied by; default: that of the file.
        column: Column of a Parquet file; default: the only one of vectors.

    Raises:
        InvalidInputError: If it is not such a file.
    """
    path = Path(path)
    with path.open("rb") as file:
        magic = file.read(8)
    if column is not None and magic[:4] != b"PAR1":
        raise InvalidInputError(f"{path}: expected a Parquet file with a column, got another")
    if magic[:4] == b"PAR1":
        from stitchwork.client.parquet_files import parquet_rows

        return _checked(path, parquet_rows(path, column), scale)
    if magic[:6] == npy.MAGIC_PREFIX:
        return _checked(path, _npy_rows(path), scale)
    if magic[:2] == b"PK":
        rows, own_scale = _npz_rows(path)
    else:
        rows, own_scale = _safetensors_rows(path)
    return _checked(path, rows, own_scale if scale is None else scale)


def _checked(path: Path, rows: Any, scale: Any) -> Any:
    """The rows of a file, as floats.

    Raises:
        InvalidInputError: If they are of another type, or int8 without a scale.
    """
    dtype = rows[:1].dtype
    try:
        if dtype == np.int8 or scale is not None:
            return ScaledRows(rows, parse_scale(scale, rows.shape, dtype))
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error.message}") from error
    if dtype.kind != "f":
        raise InvalidInputError(f"{path}: {EXPECTATION}, got {str(dtype)[:80]}")
    return rows


def _npy_rows(path: Path) -> Any:
    try:
        # Maps the file to read its header, and checks its length.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidInputError(f"{path}: expected an .npy file of numbers: {error}") from error
    if mapped.ndim != 2:
        raise InvalidInputError(f"{path}: expected rows (n, d), got shape {mapped.shape}")
    if not mapped.flags.c_contiguous or not isinstance(mapped, np.memmap):
        return ColumnMajorRows(mapped)
    return FileRows(path, ArrayLayout(mapped.shape, mapped.dtype, mapped.offset))


def _npz_rows(path: Path) -> tuple[Any, Any]:
    """The rows of an .npz file, and its scale."""
    try:
        archive = zipfile.ZipFile(path)
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        scale = None
        if SCALE in members:
            with archive.open(members[SCALE]) as stream:
                scale = npy.read_array(stream, allow_pickle=False)
        name = _choose(path, [name for name in members if name != SCALE])
        with archive.open(members[name]) as stream:
            shape, is_fortran, dtype = _npy_header(stream)
            if len(shape) != 2:
                raise InvalidInputError(f"{path}: expected rows (n, d) in {name}, got {shape}")
            if is_fortran or dtype.hasobject:
                stream.seek(0)
                whole = npy.read_array(stream, allow_pickle=False)
                return ColumnMajorRows(whole), scale
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise InvalidInputError(f"{path}: expected an .npz file of numbers: {error}") from error

    def batches() -> Iterator[NDArray[Any]]:
        row_bytes = max(1, shape[1] * dtype.itemsize)
        with archive.open(members[name]) as stream:
            _npy_header(stream)
            while data := stream.read(max(1, BATCH_BYTES // row_bytes) * row_bytes):
                yield np.frombuffer(data, dtype).reshape(-1, shape[1])

    return SequentialRows(shape, batches), scale


def _npy_header(stream: Any) -> tuple[Any, bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(stream)


def _safetensors_rows(path: Path) -> tuple[Any, Any]:
    """The rows of a safetensors file, and its scale."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if size < 8 or not 2 <= length <= size - 8:
                raise ValueError
            entries = orjson.loads(file.read(length))
            metadata = entries.pop("__metadata__", None) or {}
            layouts = {name: _layout(entry, 8 + length, size) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"{path}: expected an .npy, .npz, safetensors or Parquet file"
            ) from error
    name = _choose(path, [name for name in layouts if name != SCALE])
    entry, layout = entries[name], layouts[name]
    if layout is None or len(entry["shape"]) != 2:
        raise InvalidInputError(
            f"{path}: expected rows (n, d) of {', '.join(TENSOR_TYPES)} in {name}, got "
            f"{entry['dtype']} of shape {entry['shape']}"
        )
    scale = metadata.get(SCALE)
    if (scales := layouts.get(SCALE)) is not None:
        flat = np.fromfile(path, scales.dtype, math.prod(scales.shape), offset=scales.offset)
        scale = flat.reshape(scales.shape)
    return FileRows(path, layout), scale


def _layout(entry: Mapping[str, Any], start: int, size: int) -> ArrayLayout | None:
    """Where a tensor is; None for a type that rows cannot have."""
    begin, end = entry["data_offsets"]
    if entry["dtype"] not in TENSOR_TYPES:
        return None
    dtype = np.dtype(TENSOR_TYPES[entry["dtype"]])
    shape = tuple(map(int, entry["shape"]))
    if end - begin != math.prod(shape) * dtype.itemsize or start + end > size:
        raise ValueError
    return ArrayLayout(shape, dtype, start + begin, entry["dtype"] == "BF16")  # type: ignore[arg-type]


def _choose(path: Path, names: list[str]) -> str:
    """The array of a file that is its rows."""
    preferred = [name for name in NAMES if name in names]
    candidates = preferred or names
    if len(candidates) != 1 and not preferred:
        raise InvalidInputError(
            f"{path}: expected one array, or one of the name embeddings, got "
            f"{', '.join(names) or 'none'}"
        )
    return candidates[0]
