"""Collections of Milvus, of a server or of a file of Milvus Lite, as stores."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import orjson
from numpy.typing import NDArray
from pymilvus import CollectionSchema, DataType
from pymilvus.exceptions import MilvusException, MilvusUnavailableException

from stitchwork.errors import InvalidInputError, StitchworkError, UnavailableError
from stitchwork.migration.base_store import (
    BaseStore,
    check_unique_ids,
    check_unique_names,
    choose_vectors,
    first_id,
)
from stitchwork.migration.milvus_connections import DATABASES, SCHEMES, connect_server
from stitchwork.migration.store import Batch, Cursor, Id, Record, RecordPayload, VectorStore
from stitchwork.migration.vectors import to_vectors

ID: Final = "id"
VECTOR: Final = "embedding"
MAX_ID_BYTES: Final = 65_535
SUFFIX: Final = ".db"
"""Of the paths of Milvus Lite, by which pymilvus knows them."""
PAGE_ROWS: Final = 1024
"""Entities of one request."""
ID_ROWS: Final = 16_384
"""Entities of one request for ids; the largest that Milvus allows."""
STRONG: Final = {"consistency_level": "Strong"}
"""Reads have what was written before."""
ORDERED: Final = {"iterator": "True", "reduce_stop_for_best": "True"}
"""Entities are in the order of their ids, as those of a query iterator, which asks for them so. Its
own cursor does not escape ids."""
DEFAULT_PARTITION: Final = "_default"
INDEX_STATE: Final = ("field_name", "index_name", "index_type", "state")
"""Of the description of an index, what is none of its parameters; nor are numbers of rows."""


@dataclass(frozen=True, slots=True)
class EntityPayload(RecordPayload):
    """Fields of entities as pymilvus has them."""

    def records(self) -> list[Record]:
        """The fields, with sparse vectors as objects of indices and values."""
        return [{name: _plain(value) for name, value in row.items()} for row in self.fields]

    def select(self, rows: NDArray[np.intp]) -> "EntityPayload":
        """The payload of some of the rows, by their indices."""
        return EntityPayload([self.fields[row] for row in rows])


class MilvusStore(BaseStore):
    """A collection with a field of vectors of float32.

    Args:
        address: The URL of a server, or the path of a database of Milvus Lite, which ends in `.db`.
        name: What messages call it.
        collection: The collection.
        column: Field of the vectors; default: its only one.

    Raises:
        InvalidInputError: If the address is neither.
    """

    def __init__(self, address: str, name: str, collection: str, column: str | None = None) -> None:
        self.name, self.collection, self._column = name, collection, column
        self._address, self._path = address, str(Path(address).resolve())
        self._is_local = "://" not in address
        if not self._is_local and urlsplit(address).scheme not in SCHEMES:
            raise InvalidInputError(
                f"{name}: expected a URL of Milvus with one of {', '.join(SCHEMES)} before its ://"
            )
        if self._is_local and Path(address).suffix != SUFFIX:
            raise InvalidInputError(
                f"{name}: expected a URL, or the path of a database of Milvus Lite, which ends in "
                f"{SUFFIX}"
            )
        if self._is_local and Path(address).is_file():
            raise InvalidInputError(
                f"{name}: expected the folder of a database of Milvus Lite 3, got a file, as "
                "earlier releases wrote"
            )

    def count(self) -> int:
        """The number of entities."""
        self._load()
        rows = self._client.query(self.collection, output_fields=["count(*)"], **STRONG)
        return int(rows[0]["count(*)"])

    def revision(self) -> str:
        """A digest of all ids in their order; it does not see changes of vectors."""
        name, digest = self._id_field["name"], hashlib.sha256()
        for rows in self._pages(ID_ROWS, None, [name]):
            digest.update(orjson.dumps([str(row[name]) for row in rows]))
        return digest.hexdigest()

    def dimension(self) -> int:
        """The width of the vectors."""
        return int(self._vector_field["params"]["dim"])

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """Entities in the order of their ids; a cursor is the last id."""
        pending = list[Record]()
        for rows in self._pages(PAGE_ROWS, cursor, ["*"]):
            pending += rows
            while len(pending) >= size:
                yield self._batch(pending[:size])
                pending = pending[size:]
        if pending:
            yield self._batch(pending)

    def exists(self) -> bool:
        """Whether there is a collection of this name."""
        if self._is_local and not Path(self._path).exists():
            return False
        return bool(self._client.has_collection(self.collection))

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Create the collection, with the fields and indexes of a Milvus source.

        The fields of other kinds of stores become dynamic ones.

        Raises:
            InvalidInputError: If two fields would have one name, or ids repeat.
        """
        check_unique_ids(source)
        if self._is_local:
            Path(self._path).mkdir(parents=True, exist_ok=True)
        if isinstance(source, MilvusStore):
            self._column = self._column or source._vector_field["name"]
            schema, indexes = source._layout(self._column, dimension)
        else:
            self._column = self._column or VECTOR
            schema, indexes = _new_layout(source, self._column, dimension)
        schema["description"] = schema.get("description") or orjson.dumps(dict(stamp)).decode()
        check_unique_names(self.name, [field["name"] for field in schema["fields"]])
        if self.exists():
            return
        parameters = self._client.prepare_index_params()
        for index in indexes:
            parameters.add_index(**index)
        self._client.create_collection(
            self.collection,
            schema=CollectionSchema.construct_from_dict(schema),
            index_params=parameters,
        )

    def write(self, block: int, batch: Batch) -> None:
        """Insert or replace the entities of a block."""
        id_field, vector = self._id_field, self._vector_field["name"]
        if isinstance(batch.payload, EntityPayload):
            records = list(batch.payload.fields)
            self._check_fields(batch.ids, records, (id_field["name"], vector))
        else:
            rows = zip(batch.ids, batch.payload.records(), strict=True)
            records = [self._dynamic(id_, record) for id_, record in rows]
        is_text = id_field["type"] == DataType.VARCHAR
        entities = [
            {**record, id_field["name"]: str(id_) if is_text else id_, vector: row}
            for id_, row, record in zip(batch.ids, batch.vectors, records, strict=True)
        ]
        for start in range(0, len(entities), PAGE_ROWS):
            self._client.upsert(self.collection, entities[start : start + PAGE_ROWS])

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Close the client, unless another store uses it."""
        if "_client" not in self.__dict__:
            return
        if self._is_local:
            DATABASES.release(self._path)
        else:
            self._client.close()

    @staticmethod
    def client_error(name: str, error: Exception) -> StitchworkError | None:
        """Errors of the server and of connections to it."""
        if isinstance(error, MilvusUnavailableException):
            return UnavailableError(f"{name}: {error.message}")
        if isinstance(error, MilvusException):
            return InvalidInputError(f"{name}: {error.message}")
        return None

    @cached_property
    def _client(self) -> Any:
        """The client of a server, or of a database that exists."""
        if not self._is_local:
            return connect_server(self._address, self.name)
        if not Path(self._path).exists():
            raise InvalidInputError(f"{self.name}: no such database {self._path}")
        return DATABASES.acquire(self._path).client

    @cached_property
    def _schema(self) -> dict[str, Any]:
        """The description of the collection.

        Raises:
            InvalidInputError: If there is none, or it has partitions, which its rows would lose.
        """
        if not self.exists():
            raise InvalidInputError(f"{self.name}: no such collection")
        schema: dict[str, Any] = self._client.describe_collection(self.collection)
        if not any(field.get("is_partition_key") for field in schema["fields"]):
            partitions = self._client.list_partitions(self.collection)
            if partitions != [DEFAULT_PARTITION]:
                raise InvalidInputError(
                    f"{self.name}: expected a collection without partitions, or with a partition "
                    f"key, got the partitions {', '.join(partitions)}, which are not moved"
                )
        return schema

    @property
    def _id_field(self) -> Record:
        return next(field for field in self._schema["fields"] if field.get("is_primary"))

    @property
    def _vector_field(self) -> Record:
        """The field of vectors.

        Raises:
            InvalidInputError: If it is not clear which one that is.
        """
        fields: list[Record] = self._schema["fields"]
        chosen = [
            field
            for field in fields
            if field["type"] == DataType.FLOAT_VECTOR and self._column in (None, field["name"])
        ]
        listing = (f"{f['name']} ({DataType(f['type']).name})" for f in fields)
        return choose_vectors(self.name, "field", self._column, chosen, listing)

    def _layout(self, column: str, dimension: int) -> tuple[Record, list[Record]]:
        """The schema and the indexes of a collection like this one, with vectors of a width."""
        vector = self._vector_field["name"]
        fields = []
        for field in self._schema["fields"]:
            # Ids are those of the source.
            copy = {**field, "auto_id": False}
            if field["name"] == vector:
                params = {**field["params"], "dim": dimension}
                copy |= {"name": column, "params": params}
            fields.append(copy)
        indexes = []
        for name in self._client.list_indexes(self.collection):
            index = self._client.describe_index(self.collection, name)
            params = {
                key: value
                for key, value in index.items()
                if key not in INDEX_STATE and not key.endswith("_rows")
            }
            field = column if index["field_name"] == vector else index["field_name"]
            indexes.append({"field_name": field, "index_type": index["index_type"], **params})
        return {**self._schema, "fields": fields}, indexes

    def _check_fields(
        self, ids: Sequence[Id], records: Sequence[Record], names: Sequence[str]
    ) -> None:
        """Check that no payload has a field that the ids or vectors would replace.

        Raises:
            InvalidInputError: If one has.
        """
        for id_, record in zip(ids, records, strict=True):
            for name in names:
                if name in record:
                    raise InvalidInputError(
                        f"{self.name}: row {id_} has a field {name} beside that of the target; "
                        "give the target's vectors another name by &column=NAME"
                    )

    def _dynamic(self, id_: Id, record: Record) -> Record:
        """A payload of another kind of store as dynamic fields."""
        self._check_fields([id_], [record], (ID, self._vector_field["name"]))
        return self._to_fields(record, id_)

    def _load(self) -> None:
        """Load the collection, which Milvus reads loaded ones of only."""
        _ = self._schema
        self._client.load_collection(self.collection)

    def _pages(self, size: int, cursor: Cursor, fields: list[str]) -> Iterator[list[Record]]:
        """Entities in the order of their ids, some at a time."""
        self._load()
        name = self._id_field["name"]
        while True:
            after = "" if cursor is None else f"{name} > {orjson.dumps(cursor).decode()}"
            page = self._client.query(
                self.collection, after, fields, limit=size, **STRONG, **ORDERED
            )
            rows = [dict(row) for row in page]
            if not rows:
                # A page with fewer rows is not the last one: Milvus limits the bytes of a page too.
                return
            # Before the rows are passed on, whose fields others take out.
            cursor = rows[-1][name]
            yield rows

    def _batch(self, rows: list[Record]) -> Batch:
        id_, vector = self._id_field["name"], self._vector_field["name"]
        generated = [f["name"] for f in self._schema["fields"] if f.get("is_function_output")]
        ids = [row.pop(id_) for row in rows]
        vectors, faults = to_vectors([row.pop(vector, None) for row in rows], self.dimension())
        for name in generated:
            for row in rows:
                row.pop(name, None)
        return Batch(ids, vectors, EntityPayload(rows), ids[-1], faults)


def _new_layout(source: VectorStore, column: str, dimension: int) -> tuple[Record, list[Record]]:
    """The schema and the index of a collection of the rows of another kind of store."""
    id_ = {"name": ID, "type": DataType.INT64, "is_primary": True, "params": {}}
    if not isinstance(first_id(source), int):
        id_ |= {"type": DataType.VARCHAR, "params": {"max_length": MAX_ID_BYTES}}
    vector = {"name": column, "type": DataType.FLOAT_VECTOR, "params": {"dim": dimension}}
    schema = {"fields": [id_, vector], "enable_dynamic_field": True}
    return schema, [{"field_name": column, "index_type": "AUTOINDEX", "metric_type": "COSINE"}]


def _plain(value: Any) -> Any:
    if isinstance(value, dict) and value and all(isinstance(key, int) for key in value):
        return {"indices": list(value), "values": list(value.values())}
    return value
