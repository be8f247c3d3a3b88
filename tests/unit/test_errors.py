"""The tree of errors, the enumeration of codes and the published documents agree."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import stitchwork
from stitchwork import errors
from stitchwork.api.problem_details import error_statuses
from stitchwork.client.service_errors import raise_for_error
from stitchwork.errors import UNSERVED_CODES, ErrorCode, StitchworkError

PACKAGE = Path(stitchwork.__file__).parent
REPOSITORY = Path(__file__).parents[2]


def classes(root: type[StitchworkError] = StitchworkError) -> Iterator[type[StitchworkError]]:
    yield root
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield from classes(kind)


def test_every_error_class_has_its_own_code() -> None:
    codes = [kind.code for kind in classes()]
    assert len(set(codes)) == len(codes)
    assert all(isinstance(code, ErrorCode) for code in codes)


def test_error_tree_in_the_docstring_names_every_class_in_its_place() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = re.search(r"(\w+Error)\b", line)
        if name and ("──" in line or line.strip() == "StitchworkError"):
            depth = (name.start() - 4) // 4
            path[depth:] = [name[1]]
            drawn[name[1]] = path[depth - 1] if depth else ""
    actual = {kind.__name__: kind.__mro__[1].__name__ for kind in classes()}
    assert drawn == actual | {"StitchworkError": ""}


def test_package_passes_no_code_that_is_a_literal_text() -> None:
    literals = [
        f"{path.relative_to(PACKAGE)}:{node.value.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "code"
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    assert literals == []


def test_every_code_is_used_outside_of_the_enumeration() -> None:
    own = {kind.code for kind in classes()}
    text = "".join(
        path.read_text() for path in PACKAGE.rglob("*.py") if path != PACKAGE / "errors.py"
    )
    unused = [
        code
        for code in ErrorCode
        if code not in own and not re.search(rf"ErrorCode\.{code.name}\b", text)
    ]
    assert unused == []


def test_codes_in_the_openapi_document_are_those_that_a_response_may_carry() -> None:
    document = json.loads((REPOSITORY / "tests/support/openapi.json").read_text())
    documented = document["components"]["schemas"]["Problem"]["properties"]["code"]["examples"]
    assert set(documented) == set(ErrorCode) - UNSERVED_CODES


def test_codes_beside_a_status_in_the_documentation_are_members() -> None:
    texts = [path.read_text() for path in (REPOSITORY / "docs/operations").glob("*.md")]
    codes = re.findall(r"\b[45]\d\d `([a-z]+(?:-[a-z]+)+)`", "".join(texts))
    assert codes, "the page about scaling names some"
    assert set(codes) <= set(ErrorCode)


def test_unknown_code_is_parsed_to_unknown() -> None:
    assert ErrorCode.parse("wrong-width") is ErrorCode.WRONG_WIDTH
    assert ErrorCode.parse("of-another-release") is ErrorCode.UNKNOWN
    assert ErrorCode.parse(None) is ErrorCode.UNKNOWN


@pytest.mark.parametrize("code", list(ErrorCode))
def test_code_is_kebab_case_of_its_name(code: ErrorCode) -> None:
    assert code.value == code.name.lower().replace("_", "-")


def test_statuses_of_errors_leave_out_classes_of_the_client() -> None:
    with pytest.raises(errors.UnknownResourceError):
        raise_for_error(httpx.Response(404, json={"code": "unknown-resource"}))
    codes = [code for _, code in error_statuses()]
    assert len(codes) == len(set(codes))
    assert set(codes) == {kind.code for kind in classes()} - {
        ErrorCode.CLIENT_DISCONNECTED,
        ErrorCode.CORRUPT_DATA,
    }
