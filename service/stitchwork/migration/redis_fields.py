"""The fields of hashes of Redis and of the indexes over them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.migration.json_values import decode_json, encode_json, to_json
from stitchwork.migration.store import Id, Record

Hash: TypeAlias = dict[bytes, bytes]
NUMBERS: Final = {"FLOAT32": "<f4", "FLOAT64": "<f8", "FLOAT16": "<f2"}
"""Types of vectors that are read and written."""
VECTOR: Final = "VECTOR"
FLAGS: Final = {
    "SORTABLE", "UNF", "NOSTEM", "NOINDEX", "CASESENSITIVE", "WITHSUFFIXTRIE", "INDEXMISSING",
    "INDEXEMPTY",
}  # fmt: skip
ARGUMENTS: Final = {"WEIGHT", "SEPARATOR", "PHONETIC"}


class IndexField(NamedTuple):
    """A field of an index.

    Attributes:
        field: Its name in the hashes.
        name: Its name in the index.
        type: `TEXT`, `TAG`, `NUMERIC`, `GEO`, `VECTOR` or another.
        options: What follows the type, by its names in capital letters: flags have no values.
    """

    field: str
    name: str
    type: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, attribute: Sequence[Any]) -> Self:
        """A field as `FT.INFO` lists it: pairs of a name and a value, then flags."""
        words = [_text(word) for word in attribute]
        options = dict[str, Any]()
        while words:
            name = words.pop(0)
            options[name.upper()] = None if name in FLAGS or not words else words.pop(0)
        field, name, type_ = (options.pop(key) for key in ("IDENTIFIER", "ATTRIBUTE", "TYPE"))
        return cls(field, name, type_, options)

    @property
    def width(self) -> int:
        """The width of its vectors."""
        return int(self.options["DIM"])

    @property
    def dtype(self) -> str:
        """The type of the numbers of its vectors, as numpy names it.

        Raises:
            InvalidInputError: If they are of another type than float16, float32 and float64.
        """
        type_ = self.options["DATA_TYPE"]
        if type_ not in NUMBERS:
            raise InvalidInputError(
                f"expected vectors of {', '.join(NUMBERS)} in the field {self.name}, got {type_}"
            )
        return NUMBERS[type_]

    def vector(self, data: bytes | None) -> NDArray[np.floating] | None:
        """The numbers of a vector; what is no whole number of them has no numbers."""
        if data is None:
            return None
        size = np.dtype(self.dtype).itemsize
        return np.frombuffer(data if len(data) % size == 0 else b"", self.dtype)

    def arguments(self) -> list[Any]:
        """The type and what follows it, as `FT.CREATE` expects them.

        Raises:
            InvalidInputError: If it has options that are not known, which a copy would lack.
        """
        if self.type == VECTOR:
            names = {"DATA_TYPE": "TYPE"}
            options = {**self.options}
            algorithm = options.pop("ALGORITHM")
            pairs = [word for k, v in options.items() for word in (names.get(k, k), v)]
            return [VECTOR, algorithm, len(pairs), *pairs]
        words: list[Any] = [self.type]
        if "SORTABLE" in self.options:
            # After all others, with what belongs to it.
            last = [name for name in ("SORTABLE", "UNF", "NOINDEX") if name in self.options]
        else:
            last = [name for name in ("NOINDEX",) if name in self.options]
        for name, value in self.options.items():
            if name in ARGUMENTS and value is not None:
                words += [name, value]
            elif name not in FLAGS:
                raise InvalidInputError(
                    f"the field {self.name} of the index has an option {name}, which a new index "
                    "would lack"
                )
            elif name not in last:
                words.append(name)
        return words + last


@dataclass(frozen=True, slots=True)
class HashPayload:
    """Fields of hashes, as the server stores them.

    Attributes:
        hashes: The fields of each row, without the vector.
        expiries: When each row expires, in milliseconds of Unix time; -1 for never.
        vectors: Fields of the index that are further vectors.
        store: The store, in messages.
        ids: The id of each row, in messages.
    """

    hashes: Sequence[Hash]
    expiries: Sequence[int]
    vectors: Sequence[IndexField]
    store: str
    ids: Sequence[Id]

    @classmethod
    def of(cls, records: Sequence[Record], store: str, ids: Sequence[Id]) -> Self:
        """The payload of rows of another kind of store.

        Raises:
            InvalidInputError: If a value is none of JSON.
        """
        rows = zip(ids, records, strict=True)
        hashes = [_to_hash(record, store, id_) for id_, record in rows]
        return cls(hashes, [-1] * len(hashes), (), store, ids)

    def records(self) -> list[Record]:
        """The fields as texts, and further vectors as lists of numbers."""
        return [self._record(id_, hash_) for id_, hash_ in zip(self.ids, self.hashes, strict=True)]

    def select(self, rows: NDArray[np.intp]) -> "HashPayload":
        """The payload of some of the rows, by their indices."""
        return HashPayload(
            [self.hashes[row] for row in rows],
            [self.expiries[row] for row in rows],
            self.vectors,
            self.store,
            [self.ids[row] for row in rows],
        )

    def _record(self, id_: Id, hash_: Hash) -> Record:
        vectors = {field.field.encode(): field for field in self.vectors}
        record = Record()
        for name, data in hash_.items():
            try:
                if name in vectors:
                    record[name.decode()] = np.asarray(vectors[name].vector(data)).tolist()
                else:
                    record[name.decode()] = data.decode()
            except UnicodeDecodeError as error:
                field = name.decode(errors="replace")
                raise InvalidInputError(
                    f"{self.store}: row {id_} has binary data in the field {field}, which only "
                    "another index of Redis has a place for"
                ) from error
        return record


class IndexInfo(NamedTuple):
    """An index, as the server describes it.

    Attributes:
        fields: Its fields.
        prefixes: What the keys of its hashes begin with.
        key_type: `HASH` or `JSON`.
        filter: An expression that its hashes fulfil; empty if there is none.
    """

    fields: list[IndexField]
    prefixes: list[bytes]
    key_type: str
    filter: str

    @classmethod
    def read(cls, client: Any, name: str) -> Self:
        """The index of a server by its name."""
        info = client.ft(name).info()
        words = iter(info["index_definition"])
        definition = {_text(word): value for word, value in zip(words, words, strict=True)}
        return cls(
            [IndexField.parse(attribute) for attribute in info["attributes"]],
            sorted(definition["prefixes"]),
            _text(definition["key_type"]),
            _text(definition.get("filter", "")),
        )


def pattern(prefix: bytes) -> bytes:
    """The pattern of keys with a prefix, as `SCAN` expects it."""
    return re.sub(rb"([\[\]*?\\])", rb"\\\1", prefix) + b"*"


def _to_hash(record: Record, store: str, id_: Id) -> Hash:
    """A payload as the fields of a hash: other values than texts are JSON, nulls are left out."""
    fields = decode_json(to_json(record, store, id_))
    return {
        name.encode(): value.encode() if isinstance(value, str) else encode_json(value)
        for name, value in fields.items()
        if value is not None
    }


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
