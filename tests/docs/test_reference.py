"""The reference pages agree with the code."""

import ast
import re
from collections import defaultdict
from typing import Final

import pytest

from stitchwork import errors
from stitchwork.api.problem_details import error_statuses, status_of
from stitchwork.errors import UNSERVED_CODES, ErrorCode
from tests.support.code_blocks import ROOT
from tests.support.reference_pages import FOLDER, PAGES

PACKAGE: Final = ROOT / "service" / "stitchwork"
ROW: Final = re.compile(r"^\| `([a-z-]+)` \| ([\d, ]+) \|", re.MULTILINE)
ON_THE_CLIENT: Final = "client"
"""The room whose errors no response carries."""
OF_LOADING: Final = {ErrorCode.PATH_NOT_ALLOWED: 503, ErrorCode.MODEL_NOT_ALLOWED: 503}
"""Statuses of errors of loading a model that a worker converts to `JobFailedError`."""
OF_CONNECTIONS: Final = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.QUEUE_BYTES_FULL: 429,
    ErrorCode.HEADERS_TOO_LARGE: 431,
    ErrorCode.TOO_MANY_CONNECTIONS: 503,
    ErrorCode.INCOMPATIBLE_FORMAT: 503,
}
"""Statuses of responses without an exception of that class and code in the source."""
LOADS: Final = "models/model_files.py"
"""The module whose errors no request meets before a worker converts them."""


def documented_statuses() -> dict[str, set[int]]:
    rows = ROW.findall((FOLDER / "errors.md").read_text())
    assert len({code for code, _ in rows}) == len(rows)
    return {code: {int(status) for status in statuses.split(",")} for code, statuses in rows}


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_the_code_gives(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), (
        "run `python -m tests.support.reference_pages`"
    )


def test_error_page_lists_every_code_that_a_response_carries() -> None:
    served = set(ErrorCode) - UNSERVED_CODES
    assert documented_statuses().keys() == served


def test_error_page_has_the_status_of_every_class() -> None:
    documented = documented_statuses()
    for status, code in error_statuses():
        assert status in documented[code], code


def test_error_page_has_the_status_of_every_code_of_a_raised_error() -> None:
    raised = defaultdict[str, set[int]](set)
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        if place.parts[0] == ON_THE_CLIENT or place.as_posix() == LOADS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=name), keywords=keywords) if name.endswith("Error"):
                    for keyword in keywords:
                        match keyword:
                            case ast.keyword(
                                arg="code",
                                value=ast.Attribute(value=ast.Name(id="ErrorCode"), attr=member),
                            ):
                                code = ErrorCode[member]
                                raised[code].add(status_of(getattr(errors, name)))
    assert len(raised) > 20
    for status, name in error_statuses():
        raised[ErrorCode(name)].add(status)
    for code, status in (*OF_LOADING.items(), *OF_CONNECTIONS.items()):
        assert status not in raised[code], code
        raised[code].add(status)
    assert documented_statuses() == raised
