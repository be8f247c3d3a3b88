"""Files with a JSON object a line as stores."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.migration.base_store import check_unique_ids, row_fault
from stitchwork.migration.file_store import FileStore
from stitchwork.migration.json_values import exact_fields, from_json, has_floats, to_json
from stitchwork.migration.store import Batch, Cursor, Id, Record, RecordPayload, VectorStore
from stitchwork.migration.vectors import to_vectors

ID: Final = "id"
VECTOR: Final = "embedding"
PAGE_ROWS: Final = 1024


class JsonLinesStore(FileStore):
    """A file with an object a line: an id, a vector, and other fields.

    Args:
        path: The file.
        name: What messages call it.
        id_field: Field of the ids; default: `id`, if the first row has it; if empty, rows are
            numbered.
        column: Field of the vectors; default: `embedding`.
    """

    SUFFIX = ".jsonl"
    HAS_ROW_CURSORS = True

    def __init__(
        self, path: Path, name: str, id_field: str | None = None, column: str | None = None
    ) -> None:
        super().__init__(path, name)
        self._id, self._column = id_field or ID, column or VECTOR
        self._id_option, self._has_ids = id_field, None if id_field != "" else False
        if self._id == self._column:
            raise InvalidInputError(
                f"{name}: expected different fields of ids and vectors, got {self._id} for both"
            )

    def count(self) -> int:
        """The number of lines."""
        with self._open() as file:
            return sum(1 for line in file if line.strip())

    def dimension(self) -> int:
        """The width of the vectors: the commonest among the first ones.

        Raises:
            InvalidInputError: If no line has one.
        """
        with self._open() as file:
            lines, number = (line for line in file if line.strip()), 0
            while page := list(islice(lines, PAGE_ROWS)):
                vectors = [self._parse(line, number + i)[2] for i, line in enumerate(page)]
                widths = Counter(len(v) for v in vectors if isinstance(v, list) and v)
                if widths:
                    return widths.most_common(1)[0][0]
                number += len(page)
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

    def seek(self, rows: Sequence[int]) -> list[Cursor]:
        """The cursors of rows by their numbers, by one pass over the lines before the last one."""
        cursors = list[Cursor]()
        with self._open() as file:
            offset, number = 0, 0
            for line in file:
                if len(cursors) == len(rows):
                    break
                if line.strip():
                    if number == rows[len(cursors)]:
                        cursors.append((offset, number))
                    number += 1
                offset += len(line)
        return cursors

    def read_ids(self) -> Iterator[Sequence[Id | None]]:
        """The ids of the rows; none if they are numbered."""
        if not self._read_has_ids():
            return
        with self._open() as file:
            lines, number = (line for line in file if line.strip()), 0
            while ids := [self._parse(line, number)[0] for line in islice(lines, PAGE_ROWS)]:
                yield ids
                number += len(ids)

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Open a folder of parts; the format has no place for the stamp.

        Raises:
            InvalidInputError: If the rows of the source have a field of the name of the ids or
                vectors.
        """
        check_unique_ids(source)
        for batch in source.scan(1):
            self._check_fields(batch.ids[0], batch.payload.records()[0])
            break
        self._prepare(folder)

    def write(self, block: int, batch: Batch) -> None:
        """Write the part of a block."""
        rows = zip(batch.ids, batch.vectors, batch.payload.records(), strict=True)
        with self._part_files.write(block) as file:
            for id_, vector, record in rows:
                self._check_fields(id_, record)
                fields = {self._id: id_, self._column: vector, **record}
                file.write(to_json(fields, self.name, id_) + b"\n")

    def _append(self, file: BinaryIO, paths: list[Path]) -> None:
        for path in paths:
            with path.open("rb") as part:
                copyfileobj(part, file)

    def _check_fields(self, id_: Id, record: Record) -> None:
        for field, option in ((self._id, "id"), (self._column, "column")):
            if field in record:
                raise InvalidInputError(
                    f"{self.name}: row {id_} has a field {field} beside its {option}; give the "
                    f"target's {option} another name by {option}=NAME"
                )

    def _read_has_ids(self) -> bool:
        """Whether rows have ids: if the first one has or, of a field that is named, any."""
        if self._has_ids is None:
            with self._open() as file:
                lines = islice((line for line in file if line.strip()), PAGE_ROWS)
                rows = [self._load(line, number) for number, line in enumerate(lines)]
            if not self._id_option:
                rows = rows[:1]
            self._has_ids = any(self._id in row for row in rows)
            if self._id_option and not self._has_ids:
                raise InvalidInputError(
                    f"{self.name}: expected a field {self._id} of ids, got "
                    f"{', '.join(rows[0]) if rows else 'no rows'}"
                )
        return self._has_ids

    def _open(self) -> BinaryIO:
        try:
            return self._path.open("rb")
        except FileNotFoundError as error:
            raise InvalidInputError(f"{self.name}: no such file") from error

    def _batch(self, lines: list[bytes], number: int, width: int, file: BinaryIO) -> Batch:
        rows = [self._parse(line, number + i) for i, line in enumerate(lines)]
        vectors, faults = self._to_vectors([vector for _, _, vector in rows], width)
        payload = RecordPayload([record for _, record, _ in rows])
        ids = [number + i if id_ is None else id_ for i, (id_, _, _) in enumerate(rows)]
        faults |= {i: row_fault(number + i) for i, (id_, _, _) in enumerate(rows) if id_ is None}
        return Batch(ids, vectors, payload, (file.tell(), number + len(lines)), faults)

    def _parse(self, line: bytes, number: int) -> tuple[Id | None, Record, Any]:
        """The id, the payload and the vector of a line."""
        record = self._load(line, number)
        id_: Any = number
        if self._read_has_ids():
            id_ = record.pop(self._id, None)
            if isinstance(id_, bool) or not isinstance(id_, int | str | None):
                raise InvalidInputError(
                    f"{self.name}, row {number}: expected a number or text as {self._id}"
                )
        elif self._id_option is None and self._id in record:
            raise InvalidInputError(
                f"{self.name}, row {number} has an {self._id}, and row 0 has none: leave out rows "
                f"without one by id={self._id}, or number the rows by an empty id="
            )
        vector = self._pop_vector(record)
        if has_floats(record):
            record = exact_fields(line, record)
        return id_, record, vector

    def _pop_vector(self, record: Record) -> Any:
        return record.pop(self._column, None)

    def _to_vectors(
        self, vectors: list[Any], width: int
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        return to_vectors(vectors, width)

    def _load(self, line: bytes, number: int) -> Record:
        try:
            record = from_json(line)
        except ValueError as error:
            raise InvalidInputError(f"{self.name}, row {number}: {error}") from error
        if not isinstance(record, dict):
            raise InvalidInputError(f"{self.name}, row {number}: expected an object")
        return record
