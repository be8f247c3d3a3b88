"""Hashes with an index of Redis search as stores."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final

import redis
from redis.commands.search.field import Field
from redis.commands.search.index_definition import IndexDefinition, IndexType

from stitchwork.errors import ConflictError, InvalidInputError, StitchworkError, UnavailableError
from stitchwork.migration.base_store import (
    BaseStore,
    check_unique_ids,
    check_unique_names,
    choose_vectors,
    sample_indices,
)
from stitchwork.migration.redis_fields import (
    VECTOR,
    Hash,
    HashPayload,
    IndexField,
    IndexInfo,
    pattern,
)
from stitchwork.migration.store import Batch, Cursor, Id, VectorStore
from stitchwork.migration.vectors import to_vectors

EMBEDDING: Final = "embedding"
PAGE_ROWS: Final = 512
"""Hashes of one round trip."""
KEY_ROWS: Final = 10_000
"""Keys of one round trip."""
CONNECT_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 300.0
"""A server indexes the vectors of a page before it answers."""
INDEX_ARGUMENTS: Final = {
    "ALGORITHM": "HNSW", "DATA_TYPE": "FLOAT32", "DISTANCE_METRIC": "COSINE",
}  # fmt: skip
"""Of the vectors of an index for rows of another kind of store."""


class RedisStore(BaseStore):
    """The hashes of an index, with one field of vectors.

    The ids are the keys without the prefix of the index. Keys are read once, and sorted. When the
    hashes of a target expire is in a sorted set until all of them are there.

    Args:
        address: The URL of the server, as redis-py reads it.
        name: What messages call it.
        index: The index.
        column: Field of the vectors; default: the only one of the index.
    """

    def __init__(self, address: str, name: str, index: str, column: str | None = None) -> None:
        self.name, self.index, self._column = name, index, column
        # The older protocol: the newer one lists the fields of an index in another form.
        self._client: Any = redis.Redis.from_url(
            address,
            protocol=2,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
        )

    def count(self) -> int:
        """The number of hashes whose keys have the prefix of the index."""
        return len(self._read_keys())

    def revision(self) -> str:
        """A digest of all keys, which are read anew; it does not see changes of vectors."""
        self.__dict__.pop("_keys", None)
        digest = hashlib.sha256()
        for key in self._keys:
            digest.update(b"%d:%s" % (len(key), key))
        return digest.hexdigest()

    def dimension(self) -> int:
        """The width of the vectors."""
        return self._vector_field.width

    def scan(self, size: int, cursor: Cursor = None) -> Iterator[Batch]:
        """Rows in the order of their ids as bytes; a cursor is the last id."""
        start = 0
        if cursor is not None:
            start = bisect_right(self._keys, self._prefix + str(cursor).encode())
        for first in range(start, len(self._keys), size):
            yield self._batch(self._keys[first : first + size])

    def sample(self, count: int, seed: int) -> Batch:
        """Rows chosen at random."""
        rows = sample_indices(len(self._keys), count, seed)
        return self._batch([self._keys[row] for row in rows])

    def exists(self) -> bool:
        """Whether there is an index of this name."""
        return self.index in self._index_names()

    def create(
        self, source: VectorStore, dimension: int, folder: Path, stamp: Mapping[str, str]
    ) -> None:
        """Create the index, with the fields of a Redis source; there is no place for the stamp.

        The prefix of its keys is its name and a colon.

        Raises:
            ConflictError: If there are keys with this prefix, or another index would contain them.
            InvalidInputError: If two fields would have one name, or ids repeat.
        """
        check_unique_ids(source)
        name = self._column or EMBEDDING
        vector = IndexField(name, name, VECTOR, INDEX_ARGUMENTS)
        fields: list[IndexField] = []
        if isinstance(source, RedisStore):
            vector, fields = source._vector_field, source._other_fields
            if self._column:
                vector = vector._replace(field=self._column, name=self._column)
        vector = vector._replace(options={**vector.options, "DIM": dimension})
        check_unique_names(self.name, [field.field for field in (vector, *fields)])
        self._column = vector.field
        if self.exists():
            return
        prefix = f"{self.index}:"
        self._check_prefix(prefix.encode())
        # Of a move that began anew.
        self._client.delete(self._expiries)
        schema = [
            Field(field.field, field.arguments(), as_name=field.name) for field in (vector, *fields)
        ]
        definition = IndexDefinition([prefix], index_type=IndexType.HASH)  # type: ignore[no-untyped-call]
        self._client.ft(self.index).create_index(schema, definition=definition)

    def write(self, block: int, batch: Batch) -> None:
        """Set the fields of the hashes of a block."""
        vector = self._vector_field
        payload = batch.payload
        if not isinstance(payload, HashPayload):
            payload = HashPayload.of(payload.records(), self.name, batch.ids)
        name, vectors = vector.field.encode(), batch.vectors.astype(vector.dtype)
        rows = list(zip(batch.ids, vectors, payload.hashes, payload.expiries, strict=True))
        for start in range(0, len(rows), PAGE_ROWS):
            pipeline = self._client.pipeline(transaction=False)
            for id_, row, fields, expiry in rows[start : start + PAGE_ROWS]:
                if name in fields:
                    raise InvalidInputError(
                        f"{self.name}: row {id_} has a field {vector.field} beside its vector; "
                        "give the target's vectors another name by column=NAME"
                    )
                key = self._prefix + str(id_).encode()
                pipeline.hset(key, mapping={**fields, name: row.tobytes()})
                if expiry > 0:
                    pipeline.zadd(self._expiries, {key: expiry})
            pipeline.execute()
        self.__dict__.pop("_keys", None)

    def finish(self) -> None:
        """Nothing is left to do: hashes are indexed as they are written."""

    def mark_complete(self) -> None:
        """Set when hashes expire: none may be gone before they are counted."""
        expiries = self._client.zscan_iter(self._expiries, count=PAGE_ROWS)
        while pairs := list(islice(expiries, PAGE_ROWS)):
            pipeline = self._client.pipeline(transaction=False)
            for key, expiry in pairs:
                pipeline.pexpireat(key, int(expiry))
            pipeline.execute()
        self._client.delete(self._expiries)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @staticmethod
    def client_error(name: str, error: Exception) -> StitchworkError | None:
        """Errors of the server and of connections to it."""
        if isinstance(error, redis.ConnectionError | redis.TimeoutError):
            return UnavailableError(f"{name}: {error}")
        return (
            InvalidInputError(f"{name}: {error}") if isinstance(error, redis.RedisError) else None
        )

    @cached_property
    def _info(self) -> IndexInfo:
        """What the server says of the index.

        Raises:
            InvalidInputError: If there is none, or it is not one of all hashes with a prefix.
        """
        self._index_names()
        try:
            info = IndexInfo.read(self._client, self.index)
        except redis.ResponseError as error:
            raise InvalidInputError(f"{self.name}: no such index: {error}") from error
        if info.key_type != "HASH" or info.filter:
            kind = f"the filter {info.filter}" if info.filter else f"keys of type {info.key_type}"
            raise InvalidInputError(
                f"{self.name}: expected an index of all hashes with a prefix, got one with {kind}"
            )
        return info

    @cached_property
    def _vector_field(self) -> IndexField:
        """The field of vectors.

        Raises:
            InvalidInputError: If it is not clear which one that is.
        """
        fields = self._info.fields
        chosen = [
            field
            for field in fields
            if field.type == VECTOR and self._column in (None, field.field, field.name)
        ]
        listing = (f"{field.name} ({field.type})" for field in fields)
        return choose_vectors(self.name, "field", self._column, chosen, listing)

    @property
    def _other_fields(self) -> list[IndexField]:
        return [field for field in self._info.fields if field != self._vector_field]

    @cached_property
    def _prefix(self) -> bytes:
        """What the keys have before the ids; nothing if they have several prefixes."""
        prefixes = self._info.prefixes
        return prefixes[0] if len(prefixes) == 1 else b""

    @property
    def _expiries(self) -> str:
        """The key of the sorted set of when the hashes of a target expire."""
        return f"stitchwork-expiries:{self.index}"

    @cached_property
    def _keys(self) -> list[bytes]:
        return self._read_keys()

    def _read_keys(self) -> list[bytes]:
        """The keys of all hashes with the prefixes of the index, sorted."""
        keys = set[bytes]()
        for prefix in self._info.prefixes:
            keys.update(self._client.scan_iter(pattern(prefix), KEY_ROWS, "HASH"))
        return sorted(keys)

    def _check_prefix(self, prefix: bytes) -> None:
        """Check that keys with a prefix are neither there nor in another index.

        Raises:
            ConflictError: If they are.
        """
        if next(self._client.scan_iter(pattern(prefix), KEY_ROWS), None) is not None:
            raise ConflictError(
                f"{self.name}: keys that begin with {prefix.decode()} exist, which the new index "
                "would contain: choose another name"
            )
        for name in self._index_names():
            info = IndexInfo.read(self._client, name)
            if any(prefix.startswith(other) for other in info.prefixes):
                raise ConflictError(
                    f"{self.name}: its keys, which begin with {prefix.decode()}, would be in the "
                    f"index {name} too: choose another name"
                )

    def _index_names(self) -> list[str]:
        """The indexes of the server.

        Raises:
            InvalidInputError: If it has no search, or is a cluster.
        """
        try:
            names = self._client.execute_command("FT._LIST")
        except redis.ResponseError as error:
            if "unknown command" not in str(error).lower():
                raise
            raise InvalidInputError(
                f"{self.name}: expected a server with search, such as Redis 8 or Redis Stack: "
                f"{error}"
            ) from error
        if self._client.info("cluster")["cluster_enabled"]:
            raise InvalidInputError(
                f"{self.name}: expected one server, got a cluster, whose keys no scan lists"
            )
        return [name.decode() for name in names]

    def _batch(self, keys: Sequence[bytes]) -> Batch:
        """The rows of some keys."""
        field, vectors, hashes, expiries = (
            self._vector_field,
            list[Any](),
            list[Hash](),
            list[int](),
        )
        for start in range(0, len(keys), PAGE_ROWS):
            pipeline = self._client.pipeline(transaction=False)
            for key in keys[start : start + PAGE_ROWS]:
                pipeline.hgetall(key)
                pipeline.pexpiretime(key)
            results = pipeline.execute()
            hashes += results[::2]
            expiries += results[1::2]
        for hash_ in hashes:
            vectors.append(field.vector(hash_.pop(field.field.encode(), None)))
        array, faults = to_vectors(vectors, field.width)
        ids = [self._id(key) for key in keys]
        further = [other for other in self._other_fields if other.type == VECTOR]
        payload = HashPayload(hashes, expiries, further, self.name, ids)
        return Batch(ids, array, payload, ids[-1] if ids else None, faults)

    def _id(self, key: bytes) -> Id:
        try:
            return key[len(self._prefix) :].decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{self.name}: expected keys of UTF-8, got {key!r}") from error
