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
from stitchwork.api.dependencies import Limits
from stitchwork.api.problem_details import refusal
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
                raise refusal(error) from error

        return core_schema.with_info_plain_validator_function(parse)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self._schema


def limits_of(info: ValidationInfo) -> Limits:
    """What the request that is validated may hold."""
    limits: Limits = info.context  # type: ignore[assignment]
    return limits


def at_most(limit: str, what: str, setting: str) -> BeforeValidator:
    """Refuses a longer list before its values are looked at.

    Args:
        limit: Which of `Limits` holds.
        what: What the values are called.
        setting: What the limit is called.
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        most = getattr(limits_of(info), limit)
        if isinstance(value, list) and len(value) > most:
            told = f"expected at most {most} {what} ({setting}), got {len(value)}"
            raise refusal(InputTooLargeError(told))
        return value

    return BeforeValidator(check)


def _rows(value: Any, info: ValidationInfo) -> Floats:
    limits = limits_of(info)
    anchors = info.field_name == "anchors"
    return validation.vectors(
        value,
        coded=info.data.get("encoding_format") == "base64",
        most_rows=limits.anchors if anchors else limits.rows,
        most_width=limits.width,
        settings=("max_anchors" if anchors else "max_rows", "max_width"),
    )


def _row(value: Any, info: ValidationInfo) -> Floats:
    return validation.vector(value, limits_of(info).rows)


def _items(value: Any, info: ValidationInfo) -> list[str | bytes]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given:
        got = "an empty list" if given == [] else validation.named(given)
        raise InvalidInputError(f"expected a non-empty list of texts or images, got {got}")
    for i, item in enumerate(given):
        if not isinstance(item, str | bytes):
            raise InvalidInputError(
                f"expected a text or the base64 of an image, got {validation.named(item)}",
                pointer=f"/{i}",
            )
    return given


def _identifier(value: Any, info: ValidationInfo) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"expected an id, got {validation.named(value)}")
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
Names = Annotated[tuple[Name, ...], at_most("anchors", "ids", "max_anchors")]
"""Of anchors."""
Labels = Annotated[list[Name], at_most("rows", "labels", "max_rows")]
"""Of rows, or of a head's classes."""
