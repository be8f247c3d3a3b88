"""Collections of Chroma, of a server or of a folder, as stores."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import chromadb
import httpx
import orjson
from chromadb.config import Settings
from chromadb.errors import ChromaError

from stitchwork.errors import InvalidInputError, StitchworkError, UnavailableError
from stitchwork.migration.base_store import BaseStore, check_folder, check_unique_ids
from stitchwork.migration.store import Batch, Cursor, Id, Record, RecordPayload, VectorStore
from stitchwork.migration.vectors import to_vectors

PAGE_ROWS: Final = 1024
ID_ROWS: Final = 100_000
"""Ids of one request."""
DOCUMENT: Final = "document"
URI: Final = "uri"
"""Fields of a payload beside those of the metadata."""
RESERVED: Final = "chroma:document"
MAX_INTEGER: Final = 2**63 - 1
"""Chroma rounds larger ones."""


class ChromaStore(BaseStore):
    """A collection.

    Args:
        address: The URL of a server, or a folder.
        name: What messages call it.
        collection: The collection.
    """

    def __init__(self, address: str, name: str, collection: str) -> None:
        self.name, self._collection_name = name, collection
        self._address = address
        self._folder = None if urlsplit(address).scheme in ("http", "https") else Path(address)
        self._opened: Any = None

    def count(self) -> int:
        """The number of rows."""
        return int(self._collection().count())

    def revision(self) -> str:
        """A digest of all ids in their order, on which cursors depend; it does not see vectors."""
        digest, start = hashlib.sha256(), 0
        while ids := self._collection().get(limit=ID_ROWS, offset=start, include=[])["ids"]:
            digest.update(orjson.dumps(ids))
            start += len(ids)
        return digest.hexdigest()

    def dimension(self) -> int:
        """The width of the first vector."""
        vectors = self._collection().get(limit=1, include=["embeddings"])["embeddings"]
        if not len(vectors):
            raise InvalidInputError(f"{self.name}: expected vectors, got none")
        return len(vectors[0])

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """Rows in the order in which they were added; a cursor is the number of rows before it."""
        start, width = int(cursor or 0), self.dimension()
        while True:
            pages = [
                self._get(start + first, min(PAGE_ROWS, size - first))
                for first in range(0, size, PAGE_ROWS)
            ]
            rows = list(itertools.chain.from_iterable(pages))
            if not rows:
                return
            start += len(rows)
            ids, vectors, records = zip(*rows, strict=True)
            array, faults = to_vectors(vectors, width)
            yield Batch(ids, array, RecordPayload(records), start, faults)
            if len(rows) < size:
                return

    def exists(self) -> bool:
        """Whether there is a collection of this name."""
        if self._folder is not None and not self._folder.is_dir():
            return False
        return self._collection_name in [entry.name for entry in self._client.list_collections()]

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Create the collection, with the metadata and index of a Chroma source."""
        check_unique_ids(source)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        if self.exists():
            return
        options: dict[str, Any] = {"metadata": {}}
        if isinstance(source, ChromaStore):
            collection = source._collection()
            options["metadata"] = dict(collection.metadata or {})
            configuration = collection.configuration_json
            options["configuration"] = {
                kind: configuration[kind] for kind in ("hnsw", "spann") if configuration.get(kind)
            }
        options["metadata"]["stitchwork"] = orjson.dumps(dict(stamp)).decode()
        self._client.create_collection(self._collection_name, embedding_function=None, **options)

    def write(self, block: int, batch: Batch) -> None:
        """Insert or replace the rows of a block."""
        records = batch.payload.records()
        size = self._client.get_max_batch_size()
        for start in range(0, len(batch), size):
            part = slice(start, start + size)
            rows = zip(batch.ids[part], records[part], strict=True)
            fields = [self._parts(id_, record) for id_, record in rows]
            columns: dict[str, Any] = {
                name: list(column) if any(value is not None for value in column) else None
                for name, column in zip(
                    ("documents", "uris", "metadatas"), zip(*fields, strict=True), strict=True
                )
            }
            ids = [str(id_) for id_ in batch.ids[part]]
            self._collection().upsert(ids, embeddings=batch.vectors[part], **columns)

    def finish(self) -> None:
        """Nothing is left to do."""

    @staticmethod
    def client_error(name: str, error: Exception) -> StitchworkError | None:
        """Errors of the client, of the server and of connections to it."""
        if isinstance(error, httpx.TransportError) or (
            isinstance(error, ValueError) and isinstance(error.__context__, httpx.TransportError)
        ):
            return UnavailableError(f"{name}: {error}")
        return InvalidInputError(f"{name}: {error}") if isinstance(error, ChromaError) else None

    @cached_property
    def _client(self) -> Any:
        """The client of a server, or of a folder that exists."""
        settings = Settings(anonymized_telemetry=False)
        if self._folder is not None:
            check_folder(self.name, self._folder)
            return chromadb.PersistentClient(self._folder, settings)
        url = urlsplit(self._address)
        is_secure = url.scheme == "https"
        port = url.port or (443 if is_secure else 80)
        return chromadb.HttpClient(url.hostname or "", port, is_secure, settings=settings)

    def _get(self, start: int, count: int) -> list[tuple[str, Any, Record]]:
        """Ids, vectors and payloads of some rows."""
        include: Any = ["embeddings", "documents", "metadatas", "uris"]
        result = self._collection().get(limit=count, offset=start, include=include)
        columns = [result["ids"], result["embeddings"]]
        columns += [result[name] or itertools.repeat(None) for name in ("documents", "uris")]
        columns += [result["metadatas"]]
        rows = []
        for id_, vector, document, uri, metadata in zip(*columns, strict=False):
            record = dict(metadata or {})
            for field, value in ((DOCUMENT, document), (URI, uri)):
                if value is not None:
                    if field in record:
                        raise InvalidInputError(
                            f"{self.name}, {id_}: the metadata have a field {field} beside the "
                            f"row's own {field}"
                        )
                    record[field] = value
            rows.append((id_, vector, record))
        return rows

    def _collection(self) -> Any:
        """The collection.

        Raises:
            InvalidInputError: If there is none.
        """
        if self._opened is None:
            if not self.exists():
                raise InvalidInputError(f"{self.name}: no such collection")
            self._opened = self._client.get_collection(
                self._collection_name, embedding_function=None
            )
        return self._opened

    def _parts(self, id_: Id, record: Record) -> tuple[Any, Any, Record | None]:
        """The document, the URI and the metadata of a payload.

        Metadata are numbers, booleans and texts; lists and objects become texts of JSON, and nulls
        are left out, as Chroma has none.

        Raises:
            InvalidInputError: If Chroma would change or refuse a field.
        """
        fields = self._to_fields(record, id_)
        document, uri = (
            fields.pop(name) if isinstance(fields.get(name), str) else None
            for name in (DOCUMENT, URI)
        )
        metadata: Record = {}
        for name, value in fields.items():
            if name == RESERVED or (isinstance(value, int) and value > MAX_INTEGER):
                raise InvalidInputError(
                    f"{self.name}: row {id_} has a field {name} that Chroma does not store: "
                    f"expected another name than {RESERVED} and integers of 64 bits, got {value}"
                )
            if value is not None:
                is_scalar = isinstance(value, str | int | float | bool)
                metadata[name] = value if is_scalar else orjson.dumps(value).decode()
        return document, uri, metadata or None
