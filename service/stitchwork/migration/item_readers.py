"""The raw inputs that rows have: texts, or image files as bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self, TypeAlias

import pyarrow as pa

from stitchwork.errors import InvalidInputError
from stitchwork.migration.arrow_store import ArrowStore, TablePayload
from stitchwork.migration.re_embedding import NO_TEXT
from stitchwork.migration.store import Batch, VectorStore
from stitchwork.resources import Item, Modality

NO_IMAGE: Final = "no image to embed"
DEFAULT_FIELDS: Final[dict[Modality, str]] = {"text": "text", "image": "image"}
BYTES: Final = "bytes"
"""Field of the content of an image that is stored with its path, as data sets of a hub have it."""


SAMPLE_ROWS: Final = 1024
"""Rows whose fields are looked at where rows may have different ones."""


class MissingItem(NamedTuple):
    """What a row without an input has.

    Attributes:
        reason: Why it has none.
    """

    reason: str


ItemOrMissing: TypeAlias = Item | MissingItem


class ItemReader(Protocol):
    """Reads the inputs of rows."""

    @property
    def modality(self) -> Modality:
        """What the inputs are."""

    def origin(self) -> str:
        """Where the inputs come from."""

    def read(self, batch: Batch, rows: Sequence[int]) -> list[ItemOrMissing]:
        """The inputs of some rows of a batch, by their indices."""


@dataclass(frozen=True, slots=True)
class FieldItems:
    """Inputs in a field of the payload.

    Attributes:
        field: The field.
        modality: What it has: texts, or images as bytes.
    """

    field: str
    modality: Modality

    @classmethod
    def choose(cls, source: VectorStore, modality: Modality, field: str | None) -> Self:
        """Choose the field that has the inputs of a store.

        Args:
            source: The store.
            modality: What the inputs are.
            field: The field; None for `text` or `image`, or the only one of this type.

        Raises:
            InvalidInputError: If there is no such field, or it is not clear which one it is.
        """
        fields = _fields(source)
        suitable = [name for name, kind in fields.items() if kind == modality]
        default = DEFAULT_FIELDS[modality]
        name = field or (suitable[0] if len(suitable) == 1 else default)
        if name not in suitable:
            listed = ", ".join(f"{name} ({kind}s)" for name, kind in fields.items()) or "none"
            hint = "" if field else "; --column names one"
            raise InvalidInputError(
                f"{source.name}: expected a column {name!r} of {modality}s, got {listed}{hint}"
            )
        return cls(name, modality)

    def origin(self) -> str:
        """The name of the field."""
        return f"the field {self.field}"

    def read(self, batch: Batch, rows: Sequence[int]) -> list[ItemOrMissing]:
        """The inputs of some rows of a batch, by their indices."""
        if isinstance(batch.payload, TablePayload):
            column = batch.payload.table.column(self.field)
            values = column.take(pa.array(rows, pa.int64())).to_pylist()
        else:
            records = batch.payload.records()
            values = [records[row].get(self.field) for row in rows]
        read = _text if self.modality == "text" else _image
        return [read(value) for value in values]


@dataclass(frozen=True, slots=True)
class FolderItems:
    """Image files, whose paths in a folder are the ids of the rows.

    Attributes:
        folder: The folder.
    """

    folder: Path

    @property
    def modality(self) -> Modality:
        """Images."""
        return "image"

    def origin(self) -> str:
        """The files of the source."""
        return "its files"

    def read(self, batch: Batch, rows: Sequence[int]) -> list[ItemOrMissing]:
        """The content of some files of a batch, by their indices."""
        return [self._read(str(batch.ids[row])) for row in rows]

    def _read(self, name: str) -> ItemOrMissing:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            return MissingItem(f"the file cannot be read: {error.strerror}")


def _fields(source: VectorStore) -> dict[str, Modality]:
    """The fields of a store that have texts or images, with which of both."""
    if isinstance(source, ArrowStore):
        kinds = {field.name: _kind(field.type) for field in source.read_schema()}
        return {name: kind for name, kind in kinds.items() if kind and name != source.id_column()}
    first = next(source.scan(SAMPLE_ROWS), None)
    return {
        name: "text"
        for record in (first.payload.records() if first else ())
        for name, value in record.items()
        if isinstance(value, str)
    }


def _kind(type_: Any) -> Modality | None:
    types = pa.types
    if types.is_dictionary(type_):
        return _kind(type_.value_type)
    if types.is_struct(type_) and type_.get_field_index(BYTES) >= 0:
        return _kind(type_.field(BYTES).type)
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return "text"
    if types.is_binary(type_) or types.is_large_binary(type_) or types.is_binary_view(type_):
        return "image"
    return None


def _text(value: Any) -> ItemOrMissing:
    return value if isinstance(value, str) and value.strip() else MissingItem(NO_TEXT)


def _image(value: Any) -> ItemOrMissing:
    content = value.get(BYTES) if isinstance(value, dict) else value
    return content if isinstance(content, bytes) and content else MissingItem(NO_IMAGE)
