"""Types of the fields of request bodies that need more than pydantic: arrays, raw inputs, ids."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    StrictBool,
    StrictInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from stitchwork.api.content import validation
from stitchwork.api.limits import RequestLimits
from stitchwork.api.validation_errors import field_error
from stitchwork.errors import InputTooLargeError, InvalidInputError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.ids import ID_PATTERN, check_id
from stitchwork.resources import Floats

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
    )


def _row(value: Any, info: ValidationInfo) -> Floats:
    return validation.vector(value, limits_of(info).max_rows)


def _items(value: Any, info: ValidationInfo) -> list[str | bytes]:
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
    return items


def _identifier(value: Any, info: ValidationInfo) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"expected an id, got {validation.json_type(value)}")
    return check_id(value)


def _label_texts(value: Any) -> Any:
    """Labels as strings: 3 becomes "3" and true "true"; a list of several types is refused."""
    if not isinstance(value, list):
        return value
    types = set(map(type, value))
    if len(types) > 1 and types <= {str, int, bool}:
        raise ValueError("expected labels of one type: all strings, all integers or all booleans")
    if types == {bool}:
        return ["true" if label else "false" for label in value]
    return list(map(str, value)) if types == {int} else value


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
Rows = Annotated[Any, FieldParser(_rows, ROWS_SCHEMA)]
Row = Annotated[Any, FieldParser(_row, ROW_SCHEMA)]
Items = Annotated[list[str | bytes], FieldParser(_items, ITEMS_SCHEMA)]
Id = Annotated[str, FieldParser(_identifier, {"type": "string", "pattern": ID_PATTERN})]
Name = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]
Names = Annotated[tuple[Name, ...], max_length("max_anchors", "ids")]
"""Ids of anchors."""
Labels = Annotated[
    list[Name],
    BeforeValidator(
        _label_texts, json_schema_input_type=list[Name] | list[StrictInt] | list[StrictBool]
    ),
    max_length("max_rows", "labels"),
]
"""Labels of rows, or of a head's classes; integers and booleans become their JSON text."""
Bridge = Annotated[BridgeName, Field(description="Bridge between the two spaces.")]
Top = Annotated[Int, Field(ge=1, le=1000, description="Number of classes in each prediction.")]
Truncate = Annotated[
    Bool | None,
    Field(description="Cut texts that are too long; unset: as the encoder is registered."),
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
