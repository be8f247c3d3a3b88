"""Errors of pydantic as ours: what was expected, what came, and where."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from stitchwork.errors import InvalidInputError
from stitchwork.expectations import sentence

if TYPE_CHECKING:
    # Processes that parse bodies do without the framework.
    from fastapi.exceptions import RequestValidationError

_SOURCES: Final = ("body", "query", "header", "path")
"""The first part of the location of a parameter, which names no value."""
Place = tuple[str, ...]
"""The keys and indices that lead to a value."""


def from_validation(
    error: "ValidationError | RequestValidationError",
    fields: Iterable[str] = (),
    payload: Mapping[str, Any] | None = None,
) -> InvalidInputError:
    """The first error of a validation as a `StitchworkError`.

    If a field raised a `StitchworkError` (see `field_error`), its class, code and pointer are kept.
    Of a value that may have several types, the error names each, or the place inside it.

    Args:
        error: The validation's errors.
        fields: Fields of the model, for the message about an unknown field.
        payload: What was validated; None for parameters.
    """
    faults = [(_place(fault, payload), fault) for fault in error.errors()]
    first, _ = faults[0]
    # Several errors on one path are those of a union's members; the deepest one is closest.
    place = max((at for at, _ in faults if _overlap(at, first)), key=len)
    same = [fault for at, fault in faults if at == place]
    others = len({at for at, _ in faults if not _overlap(at, place)})
    suffix = f" (and {others} more)" if others else ""
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in place)
    context = same[0].get("ctx", {})
    if isinstance(context.get("error_class"), type):
        error_class: type[InvalidInputError] = context["error_class"]
        message = same[0]["msg"] + suffix
        return error_class(message, pointer=pointer + context["pointer"], code=context["code"])
    message = sentence(same) + suffix
    if same[0]["type"] == "extra_forbidden":
        known = f", expected some of {', '.join(fields)}" if len(place) == 1 and fields else ""
        message = f"unknown field{suggestion(place[-1], fields)}{suffix}{known}"
    elif same[0]["type"] == "missing":
        unknown = [
            at[-1]
            for at, fault in faults
            if fault["type"] == "extra_forbidden" and at[:-1] == place[:-1]
        ]
        message += _misnamed(place[-1], unknown)
    if place:
        message = f"{'.'.join(place)}: {message}"
    return InvalidInputError(message, pointer=pointer)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is most similar, if any."""
    similar = get_close_matches(name, list(known), 1)
    return f", did you mean {similar[0]}?" if similar else ""


def _misnamed(missing: str, unknown: Sequence[str]) -> str:
    """The unknown field that may be a missing one by another name."""
    similar = get_close_matches(missing, unknown, 1, cutoff=0.4) or list(unknown)
    if not similar or (len(unknown) > 1 and similar == list(unknown)):
        return ""
    return f"; {similar[0][:80]} is unknown, did you mean {missing}?"


def field_error(error: InvalidInputError) -> PydanticCustomError:
    """A `StitchworkError` as an error that pydantic collects under the place of its field."""
    context = {
        "error_class": type(error),
        "pointer": error.pointer or "",
        "code": error.code,
        "message": error.message,
    }
    return PydanticCustomError("refused", "{message}", context)


def _place(fault: Any, payload: Mapping[str, Any] | None) -> Place:
    """The keys and indices that lead to the value of an error.

    A location of pydantic also names the member of a union, which is no part of the request.
    """
    location: Sequence[str | int] = fault["loc"]
    kind = fault["type"]
    if payload is None:
        return tuple(str(part) for part in location if part not in _SOURCES)
    if kind.startswith("union_tag"):
        location = [*location, fault["ctx"]["discriminator"].strip("'")]
    # A validator may have made fields of others, which the payload does not have.
    is_own = not location or location[0] in payload or len(location) == 1
    current: Any = payload
    place = []
    for i, part in enumerate(location):
        is_last = i == len(location) - 1
        try:
            current = current[part]
        except (KeyError, IndexError, TypeError):
            if is_own and not (is_last and kind in ("missing", "union_tag_not_found")):
                continue
        place.append(str(part))
    return tuple(place)


def _overlap(one: Place, other: Place) -> bool:
    """Whether one place is the other, or inside it."""
    count = min(len(one), len(other))
    return one[:count] == other[:count]
