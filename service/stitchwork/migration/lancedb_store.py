"""Tables of LanceDB as stores."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import lancedb

from stitchwork.errors import InvalidInputError
from stitchwork.migration.arrow_store import ArrowStore
from stitchwork.migration.base_store import check_folder, sample_indices
from stitchwork.migration.store import Batch, Cursor, VectorStore

PAGE_ROWS: Final = 8192
"""Rows of one query."""


class LancedbStore(ArrowStore):
    """A table with a column of ids and a column of vectors.

    Args:
        address: A folder, or a URL that lancedb reads.
        name: What messages call it.
        table: The table.
        id_column: Column of the ids; default: `id`.
        column: Column of the vectors; default: its only one.
    """

    HAS_ROW_CURSORS = True

    def __init__(
        self,
        address: str,
        name: str,
        table: str,
        id_column: str | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(name, id_column, column)
        self._address, self._table_name = address, table
        self._folder = None if "://" in address else Path(address)
        self._opened: Any = None
        self._pinned_version: int | None = None
        self._has_written = False

    def __getstate__(self) -> dict[str, Any]:
        """What another process opens the same version of the table by."""
        state = {name: value for name, value in vars(self).items() if name != "_database"}
        if self._folder is not None:
            # Its working folder is another one.
            state |= {"_folder": self._folder.absolute(), "_address": str(self._folder.absolute())}
        return state | {"_opened": None, "_pinned_version": self._table().version}

    def read_schema(self) -> Any:
        """The schema of the table."""
        return self._table().schema

    def _read_column(self, column: str) -> Iterator[Any]:
        for table in self._pages(0, [column]):
            yield table.column(column)

    def revision(self) -> str:
        """The version of the table."""
        return str(self._table().version)

    def count(self) -> int:
        """The number of rows."""
        return int(self._table().count_rows())

    def _first_vectors(self, column: str) -> Iterator[Any]:
        for table in self._pages(0, [column]):
            yield table.column(column)
            return

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """Rows in the order of the table; a cursor is the number of rows before it."""
        start = int(cursor or 0)
        yield from self._to_batches(self._pages(start), size, start)

    def sample(self, count: int, seed: int) -> Batch:
        """Rows chosen at random."""
        rows = sample_indices(self.count(), count, seed)
        table = self._table().take_offsets(rows.tolist()).to_arrow()
        return self._to_batch(table, 0, self.dimension(), rows)

    def exists(self) -> bool:
        """Whether there is a table of this name."""
        if self._folder is not None and not self._folder.is_dir():
            return False
        return self._table_name in self._database.list_tables().tables

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Create the table with the columns of an Arrow source, or id, vector and payload.

        Raises:
            InvalidInputError: If the source has no column of ids, by which rows are replaced.
        """
        if isinstance(source, ArrowStore) and source.id_column() is None:
            raise InvalidInputError(f"{source.name}: expected a column of ids; name it by id=NAME")
        self._plan_schema(source, dimension, stamp)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        if isinstance(source, ArrowStore):
            self._id = self._id or source.id_column()
        self._database.create_table(self._table_name, schema=self._schema, exist_ok=True)

    def write(self, block: int, batch: Batch) -> None:
        """Add the rows of a block; those of the first one in a process may be there already."""
        rows = self._to_table(batch)
        if not rows.num_rows:
            return
        if self._has_written:
            self._table().add(rows)
        else:
            merge = self._table().merge_insert(self.id_column())
            merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)
        self._has_written = True

    def finish(self) -> None:
        """Nothing is left to do."""

    @cached_property
    def _database(self) -> Any:
        if self._folder is not None:
            check_folder(self.name, self._folder)
        return lancedb.connect(self._address)

    def _pages(self, start: int, columns: list[str] | None = None) -> Iterator[Any]:
        """Tables of the rows from one on, some at a time.

        Each is a query of its own: one for all reads ahead without regard to memory.
        """
        for first in range(start, self.count(), PAGE_ROWS):
            query = self._table().search().offset(first).limit(PAGE_ROWS)
            yield (query.select(columns) if columns else query).to_arrow()

    def _table(self) -> Any:
        """The table, at the version at which it was opened unless rows are written to it.

        Raises:
            InvalidInputError: If there is none.
        """
        if self._opened is None:
            if not self.exists():
                raise InvalidInputError(f"{self.name}: no such table")
            self._opened = self._database.open_table(self._table_name)
            if self._pinned_version is not None:
                self._opened.checkout(self._pinned_version)
        return self._opened


class LanceDataSet(LancedbStore):
    """A folder of a Lance data set, which is what a table of LanceDB is.

    Args:
        path: The folder, `NAME.lance`.
        name: What messages call it.
        id_column: Column of the ids; default: `id`.
        column: Column of the vectors; default: its only one.
    """

    def __init__(
        self, path: Path, name: str, id_column: str | None = None, column: str | None = None
    ) -> None:
        super().__init__(str(path.parent), name, path.stem, id_column, column)
