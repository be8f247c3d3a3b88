"""Fields of a request in its query, beside those in its body."""

from collections import Counter
from collections.abc import Collection, Container, Mapping
from typing import Any, Final

from pydantic import BaseModel
from starlette.requests import Request

from stitchwork.api.schemas.fields import TextParameter
from stitchwork.api.validation_errors import suggestion
from stitchwork.errors import ErrorCode, InvalidInputError

MAX_NAME: Final = 80
"""Characters of a parameter's name that an error repeats."""


def check_no_fields(request: Request, model: type[BaseModel]) -> None:
    """Refuse fields in the query of a request whose body is JSON, which has all fields.

    Other parameters are refused as well, unless the body may have fields that are not declared.
    """
    if not request.scope["query_string"]:
        return
    names = [name for name in request.query_params if name in model.model_fields]
    if names:
        raise InvalidInputError(
            f"expected {names[0]} in the JSON body, got it in the query", pointer=f"/{names[0]}"
        )
    if model.model_config.get("extra") == "forbid":
        check_known(request, ())


def check_known(request: Request, known: Collection[str]) -> None:
    """Refuse a query with an unknown parameter, which nothing would use.

    Args:
        request: The request.
        known: The parameters of its route.

    Raises:
        InvalidInputError: If it has another one.
    """
    for name in request.query_params:
        if name not in known:
            short = name[:MAX_NAME]
            expected = f"some of {', '.join(known)}" if known else "none"
            raise InvalidInputError(
                f"{short}: unknown query parameter{suggestion(short, known)}, expected {expected}",
                pointer="/" + short.replace("~", "~0").replace("/", "~1"),
            )


def merge_query(query: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a query and of a body.

    Raises:
        InvalidInputError: If both have one.
    """
    for name in fields.keys() & query.keys():
        raise InvalidInputError(
            f"expected {name[:80]!r} once, got it in the query and in the body",
            code=ErrorCode.DUPLICATE_KEY,
        )
    return {**query, **fields}


def query_fields(request: Request) -> dict[str, Any]:
    """The fields in the query of a request.

    Raises:
        InvalidInputError: If it has one twice.
    """
    check_unique(request)
    return {name: TextParameter(value) for name, value in request.query_params.items()}


def check_unique(request: Request, lists: Container[str] = ()) -> None:
    """Refuse a query that repeats a parameter, whose values but the last would not be used.

    Args:
        request: The request.
        lists: Parameters that may have several values.

    Raises:
        InvalidInputError: If it repeats another one.
    """
    if not request.scope["query_string"]:
        return
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.items():
        if count > 1 and name not in lists:
            raise InvalidInputError(
                f"expected unique query parameters, got {name[:80]!r} twice",
                code=ErrorCode.DUPLICATE_KEY,
            )
