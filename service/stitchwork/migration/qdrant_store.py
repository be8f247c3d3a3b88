"""Collections of Qdrant, of a server or of a folder in local mode, as stores."""

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException

from stitchwork.errors import InvalidInputError, StitchworkError, UnavailableError
from stitchwork.migration.base_store import (
    BaseStore,
    check_folder,
    check_unique_ids,
    check_unique_names,
)
from stitchwork.migration.local_clients import LocalClients
from stitchwork.migration.store import (
    ORIGINAL_ID,
    Batch,
    Cursor,
    Id,
    Record,
    RecordPayload,
    VectorStore,
)
from stitchwork.migration.vectors import to_vectors

PAGE_ROWS: Final = 512
"""Points of one request."""
ID_ROWS: Final = 10_000
"""Points of one request for ids."""
END: Final = "end"
"""The cursor after the last point."""
MAX_ID: Final = 2**64

_local_clients: Final = LocalClients[QdrantClient](
    lambda path: QdrantClient(path=path), lambda _, client: client.close()
)


@dataclass(frozen=True, slots=True)
class PointPayload(RecordPayload):
    """Payloads of points, and their further vectors.

    Attributes:
        further: The vectors of each point beside the one that is read, by their names.
        store: The store, in messages.
    """

    further: Sequence[Mapping[str, Any]]
    store: str

    def records(self) -> list[Record]:
        """The payloads, with the further vectors as lists or, if they are sparse, objects.

        Raises:
            InvalidInputError: If a field has the name of a vector.
        """
        return [
            self._record(fields, vectors)
            for fields, vectors in zip(self.fields, self.further, strict=True)
        ]

    def select(self, rows: NDArray[np.intp]) -> "PointPayload":
        """The payload of some of the rows, by their indices."""
        fields, further = ([column[row] for row in rows] for column in (self.fields, self.further))
        return PointPayload(fields, further, self.store)

    def _record(self, fields: Record, vectors: Mapping[str, Any]) -> Record:
        for name in vectors:
            if name in fields:
                raise InvalidInputError(
                    f"{self.store}: a payload has a field {name} beside the vector {name}"
                )
        lists = {
            name: vector.model_dump() if isinstance(vector, models.SparseVector) else vector
            for name, vector in vectors.items()
        }
        return {**fields, **lists}


class QdrantStore(BaseStore):
    """A collection of points with one vector each, or one of several by its name.

    Further vectors of a point are moved as they are; other kinds of stores have them as fields.

    Args:
        address: The URL of a server, or a folder.
        name: What messages call it.
        collection: The collection.
        vector: Name of the vector; default: the only dense one.
    """

    def __init__(self, address: str, name: str, collection: str, vector: str | None = None) -> None:
        self.name, self.collection, self._vector = name, collection, vector
        self._address = address
        self._folder: str | None = None
        if not address.startswith(("http://", "https://")):
            self._folder = str(Path(address).resolve())

    def count(self) -> int:
        """The number of points."""
        return int(self._client.count(self.collection, exact=True).count)

    def revision(self) -> str:
        """A digest of all ids in their order; it does not see changes of vectors."""
        self._parameters()
        digest, cursor = hashlib.sha256(), None
        while True:
            points, cursor = self._client.scroll(
                self.collection,
                limit=ID_ROWS,
                offset=cursor,
                with_payload=False,
                with_vectors=False,
            )
            digest.update(orjson.dumps([str(point.id) for point in points]))
            if cursor is None:
                return digest.hexdigest()

    def dimension(self) -> int:
        """The width of the vectors."""
        return int(self._parameters().size)

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """Points in the order of their ids; a cursor is the next id."""
        width, points = self.dimension(), list[Any]()
        while cursor != END:
            page, following = self._client.scroll(
                self.collection,
                limit=min(size - len(points), PAGE_ROWS),
                offset=cursor,
                with_vectors=True,
            )
            points += page
            cursor = END if following is None else following
            if points and (len(points) == size or cursor == END):
                yield self._batch(points, width, cursor)
                points = []

    def exists(self) -> bool:
        """Whether there is a collection of this name."""
        if self._folder is not None and not Path(self._folder).is_dir():
            return False
        return self._client.collection_exists(self.collection)

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Create the collection, with the distance, index and further vectors of a Qdrant source.

        Raises:
            InvalidInputError: If a further vector has the name of the target's, or ids repeat.
        """
        check_unique_ids(source)
        parameters = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
        options: dict[str, Any] = {"metadata": {"stitchwork": dict(stamp)}}
        further: dict[str, models.VectorParams] = {}
        if isinstance(source, QdrantStore):
            parameters = source._parameters().model_copy(update={"size": dimension})
            self._vector = self._vector or source._vector
            config = source._client.get_collection(source.collection).config
            if isinstance(config.params.vectors, dict):
                further = {**config.params.vectors}
                further.pop(source._vector or "")
            sparse = config.params.sparse_vectors or {}
            check_unique_names(self.name, [self._vector or "", *further, *sparse])
            options |= {
                "hnsw_config": models.HnswConfigDiff(**config.hnsw_config.model_dump()),
                "quantization_config": config.quantization_config,
                "on_disk_payload": config.params.on_disk_payload,
                "shard_number": config.params.shard_number,
                "replication_factor": config.params.replication_factor,
                "sparse_vectors_config": config.params.sparse_vectors,
            }
        if self._folder is not None:
            Path(self._folder).mkdir(parents=True, exist_ok=True)
        if not self.exists():
            vectors = {self._vector: parameters, **further} if self._vector else parameters
            self._client.create_collection(self.collection, vectors_config=vectors, **options)

    def write(self, block: int, batch: Batch) -> None:
        """Insert or replace the points of a block."""
        if isinstance(batch.payload, PointPayload):
            records, further = batch.payload.fields, batch.payload.further
        else:
            records, further = batch.payload.records(), [{}] * len(batch)
        points = [
            self._point(id_, vector.tolist(), record, others)
            for id_, vector, record, others in zip(
                batch.ids, batch.vectors, records, further, strict=True
            )
        ]
        for start in range(0, len(points), PAGE_ROWS):
            self._client.upsert(self.collection, points[start : start + PAGE_ROWS], wait=True)

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Close the client, unless another store uses it."""
        if "_client" not in self.__dict__:
            return
        if self._folder is not None:
            _local_clients.release(self._folder)
        else:
            self._client.close()

    @staticmethod
    def client_error(name: str, error: Exception) -> StitchworkError | None:
        """Errors of the server, of connections to it, and of a folder that is in use."""
        if isinstance(error, ResponseHandlingException | httpx.TransportError):
            return UnavailableError(f"{name}: {error}")
        if isinstance(error, ApiException | RuntimeError):
            return InvalidInputError(f"{name}: {error}")
        return None

    @cached_property
    def _client(self) -> QdrantClient:
        """The client of a server, or of a folder that exists."""
        if self._folder is None:
            key = os.environ.get("QDRANT_API_KEY")
            return QdrantClient(url=self._address, api_key=key, check_compatibility=False)
        check_folder(self.name, Path(self._folder))
        return _local_clients.acquire(self._folder)

    def _parameters(self) -> models.VectorParams:
        """The parameters of the vector.

        Raises:
            InvalidInputError: If the collection does not exist or it is not clear which vector.
        """
        if not self.exists():
            raise InvalidInputError(f"{self.name}: no such collection")
        params = self._client.get_collection(self.collection).config.params
        vectors = params.vectors
        if isinstance(vectors, models.VectorParams) and not params.sparse_vectors:
            if self._vector is None:
                return vectors
        elif isinstance(vectors, dict):
            if self._vector is None and len(vectors) == 1:
                self._vector = next(iter(vectors))
            if self._vector in vectors:
                return vectors[self._vector]
        names = [*(vectors if isinstance(vectors, dict) else ["one without a name"])]
        names += params.sparse_vectors or {}
        raise InvalidInputError(
            f"{self.name}: expected one vector, or its name by column=NAME, got {', '.join(names)}"
        )

    def _point(
        self, id_: Id, vector: list[float], record: Any, further: Mapping[str, Any]
    ) -> models.PointStruct:
        """A point; an id that is no unsigned number and no UUID becomes a UUID of its digest."""
        record = self._to_fields(record, id_)
        if isinstance(id_, int) and 0 <= id_ < MAX_ID:
            point_id: Id = id_
        else:
            try:
                point_id = str(uuid.UUID(str(id_)))
            except ValueError:
                point_id = str(uuid.uuid5(uuid.NAMESPACE_URL, str(id_)))
            if point_id != id_:
                if ORIGINAL_ID in record:
                    raise InvalidInputError(
                        f"{self.name}: row {id_} has a field {ORIGINAL_ID}, where ids are stored "
                        "that Qdrant does not accept"
                    )
                record = {**record, ORIGINAL_ID: id_}
        vectors: Any = {self._vector: vector, **further} if self._vector else vector
        return models.PointStruct(id=point_id, vector=vectors, payload=record)

    def _batch(self, points: list[Any], width: int, cursor: Cursor) -> Batch:
        rows, further = list[Any](), list[dict[str, Any]]()
        for point in points:
            others = dict(point.vector) if isinstance(point.vector, dict) else {}
            rows.append(others.pop(self._vector, None) if self._vector else point.vector)
            further.append(others)
        vectors, faults = to_vectors(rows, width)
        payload = PointPayload([point.payload or {} for point in points], further, self.name)
        return Batch([point.id for point in points], vectors, payload, cursor, faults)
