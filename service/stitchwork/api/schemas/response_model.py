"""The base of all response bodies, and the fields that JSON shows of them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema


class ResponseModel(BaseModel):
    """A response body. A field that was not set is left out of the JSON, not null."""

    model_config = ConfigDict(frozen=True)


_ROW_SCHEMAS: Final[list[dict[str, Any]]] = [
    {"type": "array", "items": {"type": "number"}},
    {"type": "string", "contentEncoding": "base64"},
]
_ROWS: Final = (
    "One row for each input; with `encoding_format: base64`, each row is the base64 of "
    "little-endian float32"
)
Embeddings = Annotated[
    Any,
    WithJsonSchema({"type": "array", "items": {"anyOf": _ROW_SCHEMAS}}),
    Field(description=f"{_ROWS}."),
]
"""(n, d) float32, or a list of base64 texts. Not validated: rows are many, and our own."""
NullableEmbeddings = Annotated[
    Any,
    WithJsonSchema({"type": "array", "items": {"anyOf": [*_ROW_SCHEMAS, {"type": "null"}]}}),
    Field(description=f"{_ROWS}. Null for a blank text, with `blank_texts: null`."),
]
"""The same, or null in the place of some rows."""


class EmbeddingsModel(ResponseModel):
    """A response with rows, which `Accept` can also have as safetensors or .npy."""

    embeddings: Embeddings


def json_fields(model: BaseModel) -> Mapping[str, Any]:
    """The fields of a model that its JSON has: all of a record, those that were set of a response.

    Pydantic's own serialization walks every value, which large responses cannot afford.
    """
    fields = vars(model)
    if isinstance(model, ResponseModel) and len(fields) > len(model.model_fields_set):
        return {name: value for name, value in fields.items() if name in model.model_fields_set}
    return fields
