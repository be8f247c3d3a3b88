"""Bodies of any media type as one dictionary that a schema validates.

It has the fields of a JSON body, or the query parameters together with the arrays of a binary body.
Other processes import this module, which does without the framework's routes.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, TypeVar, assert_never

from pydantic import BaseModel, ValidationError

from stitchwork.api.content import json, multipart
from stitchwork.api.content.arrays import from_npy, from_safetensors
from stitchwork.api.content.queries import merge_query
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import BodyBytes
from stitchwork.api.schemas.request_model import RequestModel
from stitchwork.api.validation_errors import from_validation
from stitchwork.errors import ErrorCode, InvalidInputError, MalformedInputError

M = TypeVar("M", bound=BaseModel)

BodyType: TypeAlias = Literal[
    "application/json",
    "application/vnd.safetensors",
    "application/x-npy",
    "multipart/form-data",
    "application/x-ndjson",
]
"""A media type of bodies that `read_body` parses."""
MAX_FIELDS: Final = 256
"""Fields of a body, known or not: each unknown one is an error with its place."""


def parse_content(
    data: BodyBytes,
    media: BodyType,
    model: type[M],
    limits: RequestLimits,
    content_type: str,
    query: Mapping[str, Any],
    array_field: str | None,
) -> M:
    """Parse and validate a body.

    Args:
        data: The body.
        media: Its media type.
        model: Its schema.
        limits: Bounds on its content.
        content_type: The header.
        query: Query parameters, which are fields beside those of a body that is not JSON.
        array_field: Field of the array in a binary body, or of rows of numbers in JSON.

    Raises:
        InvalidInputError: What `read_body` raises.
    """
    payload: Mapping[str, Any]
    match media:
        case "application/json":
            payload = json.parse_object(bytes(data), limits, array_field=array_field)
        case "multipart/form-data":
            setting = model.items_setting if issubclass(model, RequestModel) else "max_items"
            count = getattr(limits, setting)
            payload = merge_query(query, multipart.parse(content_type, bytes(data), count, setting))
        case "application/x-ndjson":
            payload = merge_query(query, _ndjson(bytes(data), limits))
        case "application/vnd.safetensors":
            payload = merge_query(query, _safetensors(data, limits))
        case "application/x-npy":
            name = str(array_field)
            payload = merge_query(query, {name: from_npy(data, name)})
        case _:
            assert_never(media)
    return _validate(model, payload, limits)


def parse_content_with_rows(
    data: BodyBytes, model: type[M], limits: RequestLimits, array_field: str, max_rest: int
) -> M | None:
    """Parse and validate a JSON body that has rows of numbers, and little beside them.

    Args:
        data: The body.
        model: Its schema.
        limits: Bounds on its content.
        array_field: Field that may hold the rows.
        max_rest: Maximum bytes beside the rows.

    Returns:
        The content; None if it is anything else, which `parse_content` parses.

    Raises:
        InputTooLargeError: If it holds more than `limits` allows.
        InvalidInputError: If validation fails; `pointer` names the place.
    """
    payload = json.parse_object_with_rows(bytes(data), limits, array_field, max_rest)
    return None if payload is None else _validate(model, payload, limits)


def parse_body(data: bytes, model: type[M], limits: RequestLimits) -> M:
    """Parse and validate a JSON object.

    Raises:
        MalformedInputError: If it is not JSON.
        InputTooLargeError: If it holds more than `limits` allows.
        InvalidInputError: If it is nested too deeply, or validation fails; `pointer` names the
            place.
    """
    return _validate(model, json.parse_object(data, limits), limits)


def _validate(model: type[M], payload: Any, limits: RequestLimits) -> M:
    if len(payload) > MAX_FIELDS:
        raise InvalidInputError(
            f"expected at most {MAX_FIELDS} fields, got {len(payload)}", pointer=""
        )
    try:
        return model.model_validate(payload, context=limits)
    except ValidationError as error:
        raise from_validation(error, model.model_fields, payload) from error


def _ndjson(data: bytes, limits: RequestLimits) -> dict[str, Any]:
    json.check_value_count(data, limits)
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.parse_object(line, limits))
            except InvalidInputError as error:
                message = f"line {number}: {error.message}"
                raise type(error)(message, code=error.code) from error
    lists = {
        plural: [row[name] for row in rows if name in row]
        for name, plural in (("id", "ids"), ("label", "labels"))
    }
    items = [row.get("item") for row in rows]
    return {"items": items, **{plural: values for plural, values in lists.items() if values}}


def _safetensors(data: BodyBytes, limits: RequestLimits) -> dict[str, Any]:
    """Metadata are fields too: JSON where they can be parsed as such, text otherwise."""
    arrays, metadata = from_safetensors(data, limits)
    fields: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            fields[name] = json.parse(text.encode(), limits, strict=True)
        except MalformedInputError as error:
            if error.code == ErrorCode.DUPLICATE_KEY:
                raise
            fields[name] = text
    return {**fields, **arrays}
