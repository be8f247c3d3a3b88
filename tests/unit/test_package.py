"""The package: its public names, and what an import of them loads."""

import subprocess
import sys

import pytest

import stitchwork
from stitchwork import errors


def test_public_names_are_the_clients_and_every_error() -> None:
    expected = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    clients = {"AsyncStitchwork", "ServiceError", "Stitchwork", "__version__"}
    assert set(stitchwork.__all__) == expected | clients
    assert {name for name in stitchwork.__all__ if not hasattr(stitchwork, name)} == set()


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Unknown'"):
        stitchwork.Unknown  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import stitchwork", "fastapi redis torch pydantic rich httpx numpy"),
        ("from stitchwork import Stitchwork, AsyncStitchwork", "fastapi redis torch pydantic"),
        ("from stitchwork.errors import InvalidInputError", "fastapi redis torch pydantic httpx"),
    ],
)
def test_import_loads_only_what_it_needs(statement: str, absent: str) -> None:
    code = f"import sys; {statement}; print(*sorted(set({absent.split()}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("", "")


def test_help_of_a_method_names_plain_types() -> None:
    code = "from stitchwork import *; help(Stitchwork.translate); help(AsyncStitchwork.translate)"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "embeddings: numpy.ndarray | " in result.stdout
    assert "-> numpy.ndarray\n" in result.stdout
    assert "-> collections.abc.Awaitable[numpy.ndarray]\n" in result.stdout
    assert "Generator" not in result.stdout
