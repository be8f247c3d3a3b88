"""Folders of Parquet files in object stores that speak the protocol of Amazon S3."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from stitchwork.errors import InvalidInputError, StitchworkError, UnavailableError
from stitchwork.migration.parquet_folders import is_parquet_file
from stitchwork.migration.parquet_store import ParquetStore
from stitchwork.migration.store import Batch, VectorStore

COMPLETE: Final = "_SUCCESS"
"""Empty object beside the files of a folder that is complete, as Hadoop and Spark write it."""
UNREACHABLE: Final = ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SLOW_DOWN", "SERVICE_UNAVAILABLE")
"""Errors of S3 after which the same request may succeed later."""


class ObjectStore(ParquetStore):
    """A Parquet file, or a folder of them, in a bucket.

    Each block is an object of the target, which is a folder; it appears once it is written as a
    whole.

    Args:
        address: `s3://BUCKET/KEY`.
        name: What messages call it.
        id_column: Column of the ids; default: `id`; without it, or if empty, rows are numbered.
        column: Column of the vectors; default: its only one.
    """

    def __init__(
        self, address: str, name: str, id_column: str | None = None, column: str | None = None
    ) -> None:
        super().__init__(Path(), name, id_column, column)
        self._file_system, key = fs.FileSystem.from_uri(address)
        self._key, self._ends_in_slash = PurePosixPath(key), address.endswith("/")

    def exists(self) -> bool:
        """Whether there is an object of this name, or in this folder."""
        return bool(self._info(self._key).type != fs.FileType.NotFound)

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Choose the columns: those of a Parquet source, or id, vector and payload.

        Raises:
            InvalidInputError: If it is no folder, it is inside that of the source, or the names of
                columns or the ids of the source repeat.
        """
        if self._key.suffix and not self._ends_in_slash:
            raise InvalidInputError(f"{self.name}: expected a folder as target, ending in a slash")
        if isinstance(source, ObjectStore) and self._key.is_relative_to(source._key):
            raise InvalidInputError(
                f"{self.name}: expected a target outside the folder of the source, {source.name}"
            )
        self._plan_schema(source, dimension, stamp)

    def write(self, block: int, batch: Batch) -> None:
        """Write the object of a block."""
        buffer = pa.BufferOutputStream()
        self._write_table(self._to_table(batch), buffer)
        self._put(f"part-{block:06d}{self.SUFFIX}", buffer.getvalue())

    def mark_complete(self) -> None:
        """Write the object that marks the folder as complete."""
        self._put(COMPLETE, b"")

    @staticmethod
    def client_error(name: str, error: Exception) -> StitchworkError | None:
        """Errors of the object store."""
        if not isinstance(error, OSError) or error.filename is not None:
            return None
        kind = UnavailableError if any(code in str(error) for code in UNREACHABLE) else None
        return (kind or InvalidInputError)(f"{name}: {error}")

    def _put(self, name: str, data: Any) -> None:
        with self._file_system.open_output_stream(str(self._key / name)) as stream:
            stream.write(data)

    def _info(self, key: PurePosixPath) -> Any:
        return self._file_system.get_file_info(str(key))

    def _local_folder(self) -> Path | None:
        return None

    def _list(self) -> Sequence[PurePath]:
        if self._info(self._key).type != fs.FileType.Directory:
            return [self._key]
        infos = self._file_system.get_file_info(fs.FileSelector(str(self._key), recursive=True))
        files = [PurePosixPath(info.path) for info in infos if info.type == fs.FileType.File]
        return sorted(path for path in files if is_parquet_file(path.relative_to(self._key)))

    def _file_revisions(self, paths: Sequence[PurePath]) -> list[str]:
        infos = self._file_system.get_file_info([str(path) for path in paths])
        return [f"{info.size}@{info.mtime_ns}" for info in infos]

    def _open(self, path: PurePath) -> Any:
        return pq.ParquetFile(str(path), filesystem=self._file_system, pre_buffer=True)
