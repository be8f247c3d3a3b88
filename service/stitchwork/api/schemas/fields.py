"""Fields of request bodies that our own code checks: arrays, raw inputs, ids."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    TypeAdapter,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema

from stitchwork.api.content import validation
from stitchwork.api.limits import RequestLimits
from stitchwork.api.problem_details import field_error
from stitchwork.errors import InputTooLargeError, InvalidInputError
from stitchwork.resources import ID_PATTERN, Floats, check_id

ROW_SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "minItems": 1}
"""One embedding in JSON."""


class Checked:
    """A field that our own code reads, shown in OpenAPI as what it is."""

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
        return self._schema


def limits_of(info: ValidationInfo) -> RequestLimits:
    """What the request that is validated may hold."""
    limits: RequestLimits = info.context  # type: ignore[assignment]
    return limits


def max_length(limit: str, name: str) -> BeforeValidator:
    """Refuses a list that is too long before its values are validated.

    Args:
        limit: Attribute of `RequestLimits` with the largest length.
        name: What the values are called in the error.
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        size = getattr(limits_of(info), limit)
        if isinstance(value, list) and len(value) > size:
            raise field_error(
                InputTooLargeError(f"expected at most {size} {name} ({limit}), got {len(value)}")
            )
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
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given:
        got = "an empty list" if given == [] else validation.json_type(given)
        raise InvalidInputError(f"expected a non-empty list of texts or images, got {got}")
    for i, item in enumerate(given):
        if not isinstance(item, str | bytes):
            raise InvalidInputError(
                f"expected a text or the base64 of an image, got {validation.json_type(item)}",
                pointer=f"/{i}",
            )
    return given


def _identifier(value: Any, info: ValidationInfo) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"expected an id, got {validation.json_type(value)}")
    return check_id(value)


class Told(str):
    """A value that came as text, in a query or a form, whatever it stands for."""

    __slots__ = ()


def _as(kind: Any) -> BeforeValidator:
    """Text that stands for a number or a truth value; in JSON such a text is none."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return BeforeValidator(lambda v: adapter.validate_strings(v) if isinstance(v, Told) else v)


Int = Annotated[int, _as(int), Strict()]
Float = Annotated[float, _as(float), Strict()]
Bool = Annotated[bool, _as(bool), Strict()]
CODED_ROW: dict[str, Any] = {"type": "string", "contentEncoding": "base64"}
ROWS: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [ROW_SCHEMA, CODED_ROW]},
}
ITEMS: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "string"}}
Rows = Annotated[Any, Checked(_rows, ROWS)]
Row = Annotated[Any, Checked(_row, ROW_SCHEMA)]
Items = Annotated[list[str | bytes], Checked(_items, ITEMS)]
Id = Annotated[str, Checked(_identifier, {"type": "string", "pattern": ID_PATTERN})]
Name = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]
Names = Annotated[tuple[Name, ...], max_length("max_anchors", "ids")]
"""Of anchors."""
Labels = Annotated[list[Name], max_length("max_rows", "labels")]
"""Of rows, or of a head's classes."""
