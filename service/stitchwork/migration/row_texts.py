"""The texts that the rows of a store are embeddings of."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from stitchwork.errors import InvalidInputError
from stitchwork.migration.base_store import BaseStore
from stitchwork.migration.store import Id, Record, VectorStore
from stitchwork.migration.text_index import TextIndex

DIGEST_DIGITS: Final = 16


class TextReader(Protocol):
    """Reads the texts of rows."""

    def origin(self) -> str:
        """Where the texts come from, which changes with a file's content; empty without texts."""

    def check(self, store: VectorStore) -> None:
        """Check that a store can have such texts, as far as it is known before its rows are read.

        Raises:
            InvalidInputError: If it cannot.
        """

    def __call__(self, ids: Sequence[Id], records: Sequence[Record]) -> list[str | None]:
        """The text of each row, by its id and its payload; None where there is none."""


@dataclass(frozen=True, slots=True)
class NoTexts:
    """For stores without texts."""

    def origin(self) -> str:
        """Empty."""
        return ""

    def check(self, store: VectorStore) -> None:
        """Any store will do."""

    def __call__(self, ids: Sequence[Id], records: Sequence[Record]) -> list[str | None]:
        """None for each row."""
        return [None] * len(ids)


@dataclass(frozen=True, slots=True)
class FieldTexts:
    """Texts in a field of the payload.

    Attributes:
        field: The field.
        required: Whether some of the rows that are read at a time must have a text.
    """

    field: str
    required: bool = True

    def origin(self) -> str:
        """The name of the field."""
        return f"the field {self.field}"

    def check(self, store: VectorStore) -> None:
        """Check that a store whose rows all have the same fields has this one.

        Raises:
            InvalidInputError: If it has not.
        """
        names = store.field_names() if isinstance(store, BaseStore) else None
        if names is not None and self.field not in names:
            raise InvalidInputError(
                f"{store.name}: expected texts in the field {self.field}, the rows have "
                f"{', '.join(names) or 'no fields'}"
            )

    def __call__(self, ids: Sequence[Id], records: Sequence[Record]) -> list[str | None]:
        """The text of each row.

        Raises:
            InvalidInputError: If a text is required, and no row has one in this field.
        """
        lines = [_text(record.get(self.field)) for record in records]
        if self.required and records and not any(lines):
            available = sorted({name for record in records for name in record})
            raise InvalidInputError(
                f"expected texts in the field {self.field}, got none; the rows have "
                f"{', '.join(available) or 'no fields'}"
            )
        return lines


@dataclass(frozen=True, slots=True)
class FileTexts:
    """Texts in a file with `{"id": …, "text": …}` on each line.

    Attributes:
        path: The file.
        required: Whether some of the rows that are read at a time must have a text.
        index: Where the lines of the ids are.

    Raises:
        InvalidInputError: If there is no such file, a line is no such object, or an id repeats.
    """

    path: Path
    required: bool = True
    index: TextIndex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", TextIndex(self.path))

    def origin(self) -> str:
        """The digest of the file, whose name does not matter."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"the file with the digest {digest[:DIGEST_DIGITS]}"

    def check(self, store: VectorStore) -> None:
        """The ids of any store may be in the file."""

    def __call__(self, ids: Sequence[Id], records: Sequence[Record]) -> list[str | None]:
        """The text of each row.

        Raises:
            ConflictError: If the file has changed.
            InvalidInputError: If a text is required, and there is none for any row.
        """
        lines = [_text(text) for text in self.index.read(ids)]
        if self.required and ids and not any(lines):
            raise InvalidInputError(f"{self.path}: expected the ids of the store, such as {ids[0]}")
        return lines


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
