"""Types of the fields of request bodies that need more than pydantic: arrays, raw inputs, ids."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from stitchwork.api.content import validation
from stitchwork.api.limits import RequestLimits
from stitchwork.api.schemas.items import compact_text
from stitchwork.api.validation_errors import field_error
from stitchwork.errors import InputTooLargeError, InvalidInputError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.ids import ID_PATTERN, check_id
from stitchwork.resources import Floats, Input, Label

MAX_NAME: Final = 1024
"""Characters of a label, or of the id of an anchor."""
ROW_SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "minItems": 1}
"""One embedding in JSON."""


class FieldParser:
    """Parses a field by a function.

    Args:
        parse: Returns the parsed value, or raises InvalidInputError.
        schema: JSON schema of the field.
    """

    def __init__(self, parse: Callable[[Any, ValidationInfo], Any], schema: dict[str, Any]) -> None:
        self._parse = parse
        self._schema = schema

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def parse(value: Any, info: ValidationInfo) -> Any:
            try:
                return self._parse(value, info)
            except InvalidInputError as error:
                raise field_error(error) from error

        return core_schema.with_info_plain_validator_function(parse)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        # A copy: pydantic adds the field's description.
        return dict(self._schema)


def limits_of(info: ValidationInfo) -> RequestLimits:
    """The limits of the request that is validated, which are the validation context."""
    limits: RequestLimits = info.context  # type: ignore[assignment]
    return limits


def max_length(limit: str, name: str) -> BeforeValidator:
    """Refuse a list that is too long before its values are validated.

    Args:
        limit: Attribute of `RequestLimits` with the largest length.
        name: What the values are called in the error.
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        size = getattr(limits_of(info), limit)
        if isinstance(value, list):
            try:
                validation.check_count(len(value), size, name, limit)
            except InputTooLargeError as error:
                raise field_error(error) from error
        return value

    return BeforeValidator(check)


def _rows(value: Any, info: ValidationInfo) -> Floats:
    limits = limits_of(info)
    anchors = info.field_name == "anchors"
    return validation.vectors(
        value,
        base64=info.data.get("encoding_format") == "base64",
        max_rows=limits.max_anchors if anchors else limits.max_rows,
        max_width=limits.max_width,
        settings=("max_anchors" if anchors else "max_rows", "max_width"),
        scale=info.data.get("scale"),
        takes_int8="scale" in info.data,
    )


def _scale(value: Any, info: ValidationInfo) -> Floats:
    return validation.parse_scale(value)


def _row(value: Any, info: ValidationInfo) -> Floats:
    return validation.vector(value, limits_of(info).max_rows)


def _items(value: Any, info: ValidationInfo) -> list[Input]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        got = "an empty list" if items == [] else validation.json_type(items)
        raise InvalidInputError(f"expected a non-empty list of texts or images, got {got}")
    for i, item in enumerate(items):
        if not isinstance(item, str | bytes):
            raise InvalidInputError(
                f"expected a text or the base64 of an image, got {validation.json_type(item)}",
                pointer=f"/{i}",
            )
    return [compact_text(item) if isinstance(item, str) else item for item in items]


def _identifier(value: Any, info: ValidationInfo) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"expected an id, got {validation.json_type(value)}")
    return check_id(value)


def _labels(value: Any, info: ValidationInfo) -> list[Label]:
    """Labels of one type; their number is limited before they are checked."""
    labels = _bounded_list(value, info, "a list of labels")
    types = set(map(type, labels))
    if len(types) > 1 and types <= {str, int, bool}:
        raise InvalidInputError(
            "expected labels of one type: all strings, all integers or all booleans"
        )
    for i, label in enumerate(labels):
        _check_label(label, f"/{i}")
    return labels


def _check_label(label: Any, pointer: str) -> None:
    if type(label) is bool or (type(label) is int and -(2**63) <= label < 2**63):
        return
    if type(label) is int:
        raise InvalidInputError("expected integers of at most 64 bits", pointer=pointer)
    if type(label) is not str:
        got = validation.json_type(label)
        raise InvalidInputError(
            f"expected a label: a string, an integer or a boolean, got {got}", pointer=pointer
        )
    if not 1 <= len(label) <= MAX_NAME or "\0" in label or not _is_unicode(label):
        raise InvalidInputError(
            f"expected a label of 1 to {MAX_NAME} characters without NUL", pointer=pointer
        )


def _targets(value: Any, info: ValidationInfo) -> list[Any]:
    """True labels, lists of true labels, or numbers of inputs."""
    targets = _bounded_list(value, info, "a list with the labels of each input")
    if all(type(target) is list for target in targets):
        for i, labels in enumerate(targets):
            for j, label in enumerate(labels):
                if type(label) is not float:
                    _check_label(label, f"/{i}/{j}")
        return targets
    if any(type(target) is float for target in targets):
        for i, target in enumerate(targets):
            if type(target) not in (float, int):
                got = validation.json_type(target)
                raise InvalidInputError(f"expected a number, got {got}", pointer=f"/{i}")
        return targets
    return _labels(targets, info)


def _bounded_list(value: Any, info: ValidationInfo, expected: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInputError(f"expected {expected}, got {validation.json_type(value)}")
    validation.check_count(len(value), limits_of(info).max_rows, "labels", "max_rows")
    if not value:
        raise InvalidInputError(f"expected {expected}, at least one, got none")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _weights(value: Any, info: ValidationInfo) -> Floats:
    """The weight of a layer: a matrix or a vector."""
    is_vector = value.ndim == 1 if isinstance(value, np.ndarray) else _is_numbers(value)
    return _row(value, info) if is_vector else _rows(value, info)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and not isinstance(value[0], list | str)


class TextParameter(str):
    """The text of a value in a query or a form, which may stand for a number or a boolean."""

    __slots__ = ()


def _parse_text_as(type_: Any) -> BeforeValidator:
    """Parse the text of a query or a form; a JSON string is not parsed."""
    adapter: TypeAdapter[Any] = TypeAdapter(type_)

    def parse(value: Any) -> Any:
        if not isinstance(value, TextParameter):
            return value
        try:
            return adapter.validate_strings(value)
        except ValidationError as error:
            fault: Any = error.errors()[0]
            raise PydanticKnownError(fault["type"], fault.get("ctx")) from error

    return BeforeValidator(parse)


Int = Annotated[int, _parse_text_as(int), Strict()]
Float = Annotated[float, _parse_text_as(float), Strict()]
Bool = Annotated[bool, _parse_text_as(bool), Strict()]
BASE64_ROW_SCHEMA: dict[str, Any] = {"type": "string", "contentEncoding": "base64"}
ROWS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [ROW_SCHEMA, BASE64_ROW_SCHEMA]},
}
ITEMS_SCHEMA: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "string"}}
Scale = Annotated[
    Any,
    FieldParser(_scale, {"anyOf": [{"type": "number"}, ROW_SCHEMA]}),
    Field(
        description="What int8 rows in safetensors or .npy are multiplied by: one number, or an "
        "array of one for each column (d,) or each row (n, 1)."
    ),
]
Rows = Annotated[Any, FieldParser(_rows, ROWS_SCHEMA)]
Row = Annotated[Any, FieldParser(_row, ROW_SCHEMA)]
Items = Annotated[list[Input], FieldParser(_items, ITEMS_SCHEMA)]
Id = Annotated[str, FieldParser(_identifier, {"type": "string", "pattern": ID_PATTERN})]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=r"^[^\x00]*$")]
Names = Annotated[tuple[Name, ...], max_length("max_anchors", "ids")]
"""Ids of anchors."""
LABEL_ITEM_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}]
}
LABEL_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": MAX_NAME}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "boolean"}},
    ]
}
TARGETS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        *LABEL_SCHEMA["anyOf"],
        {"type": "array", "items": {"type": "number"}},
        {"type": "array", "items": {"type": "array", "items": LABEL_ITEM_SCHEMA}},
        {"type": "array", "items": ROW_SCHEMA},
    ]
}
Labels = Annotated[list[Label], FieldParser(_labels, LABEL_SCHEMA)]
"""Labels of rows, or of a head's classes: all strings, all integers or all booleans."""
Targets = Annotated[list[Any], FieldParser(_targets, TARGETS_SCHEMA)]
"""The truth about each input: a label, a list of labels, a number or a list of numbers."""
Weights = Annotated[Any, FieldParser(_weights, {"anyOf": [ROWS_SCHEMA, ROW_SCHEMA]})]
"""The weight of a layer of a head: a matrix or, of a normalisation, a vector."""
Bridge = Annotated[BridgeName, Field(description="Bridge between the two spaces.")]
MinConfidence = Annotated[
    Float,
    Field(
        ge=0,
        le=1,
        description="Confidence below which the head abstains: the prediction has no label. "
        "`POST /compatibility/{encoder}/{head}` returns the one for a given accuracy.",
    ),
]
Top = Annotated[Int, Field(ge=1, le=1000, description="Number of classes in each prediction.")]
Truncate = Annotated[
    Bool | None,
    Field(description="Cut texts that are too long; unset: as the encoder is registered."),
]
BlankTexts = Annotated[
    Literal["refuse", "null"],
    Field(
        description="Result for a text without a visible character, which cannot be embedded: an "
        "error of the whole request, or null in its place.",
    ),
]
InputType = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=256,
        description="Selects a prompt of the encoder's model: its name, or `query`, `document` "
        "and other words for the same purpose; unset: the prompt of the anchors. The prompts are "
        "in the space's record.",
    ),
]
