"""Files with a JSON object a line as stores."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO, Final

import orjson

from stitchwork.errors import InvalidInputError
from stitchwork.migration.file_store import FileStore
from stitchwork.migration.store import Batch, Cursor, Id, Record, RecordPayload, VectorStore
from stitchwork.migration.vectors import to_vectors

ID: Final = "id"
VECTOR: Final = "embedding"


class JsonLinesStore(FileStore):
    """A file with an object a line: an id, a vector, and other fields.

    Args:
        path: The file.
        name: What messages call it.
        id_field: Field of the ids; default: `id`; without it rows are numbered.
        column: Field of the vectors; default: `embedding`.
    """

    SUFFIX = ".jsonl"

    def __init__(
        self, path: Path, name: str, id_field: str | None = None, column: str | None = None
    ) -> None:
        super().__init__(path, name)
        self._id, self._column = id_field or ID, column or VECTOR
        self._has_ids = id_field is not None

    def count(self) -> int:
        """The number of lines."""
        with self._open() as file:
            return sum(1 for line in file if line.strip())

    def dimension(self) -> int:
        """The width of the first vector.

        Raises:
            InvalidInputError: If no line has one.
        """
        with self._open() as file:
            for number, line in enumerate(file):
                vector = self._parse(line, number)[2] if line.strip() else None
                if isinstance(vector, list) and vector:
                    return len(vector)
        raise InvalidInputError(f"{self.name}: expected vectors in {self._column}, got none")

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """Rows in the order of the lines; a cursor is a byte and the number of rows before it."""
        offset, number = cursor or (0, 0)
        width = self.dimension()
        with self._open() as file:
            file.seek(offset)
            while lines := list(islice((line for line in file if line.strip()), size)):
                yield self._batch(lines, number, width, file)
                number += len(lines)

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Open a folder of parts; the format has no place for the stamp."""
        self._prepare(folder)

    def write(self, block: int, batch: Batch) -> None:
        """Write the part of a block."""
        rows = zip(batch.ids, batch.vectors, batch.payload.records(), strict=True)
        with self._part_files.write(block) as file:
            for id_, vector, record in rows:
                fields = {self._id: id_, self._column: vector, **record}
                options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
                file.write(orjson.dumps(fields, default=str, option=options))

    def _append(self, file: BinaryIO, paths: list[Path]) -> None:
        for path in paths:
            with path.open("rb") as part:
                copyfileobj(part, file)

    def _open(self) -> BinaryIO:
        try:
            return self._path.open("rb")
        except FileNotFoundError as error:
            raise InvalidInputError(f"{self.name}: no such file") from error

    def _batch(self, lines: list[bytes], number: int, width: int, file: BinaryIO) -> Batch:
        rows = [self._parse(line, number + i) for i, line in enumerate(lines)]
        vectors, faults = to_vectors([vector for _, _, vector in rows], width)
        payload = RecordPayload([record for _, record, _ in rows])
        cursor = (file.tell(), number + len(lines))
        return Batch([id_ for id_, _, _ in rows], vectors, payload, cursor, faults)

    def _parse(self, line: bytes, number: int) -> tuple[Id, Record, Any]:
        """The id, the payload and the vector of a line."""
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InvalidInputError(f"{self.name}, row {number}: {error}") from error
        if not isinstance(record, dict) or (self._has_ids and self._id not in record):
            expected = f"an object with {self._id}" if self._has_ids else "an object"
            raise InvalidInputError(f"{self.name}, row {number}: expected {expected}")
        id_ = record.pop(self._id, number)
        if not isinstance(id_, int | str):
            raise InvalidInputError(
                f"{self.name}, row {number}: expected a number or text as {self._id}"
            )
        return id_, record, record.pop(self._column, None)
