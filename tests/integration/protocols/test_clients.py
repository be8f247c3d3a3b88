"""Python clients of other services, unmodified and at their current releases.

Their versions of common packages clash with each other's and with ours, so they are installed in an
environment of their own. `.ci/clients/run` calls more of them, and clients in other languages.
"""

import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.client_service import client_service

pytestmark = [pytest.mark.models, pytest.mark.slow]

SCRIPT: Final = Path(__file__).parents[3] / ".ci/clients/python_clients.py"
PACKAGES: Final = ("langchain-openai", "cohere")
"""What installs in seconds."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the clients."""
    folder = tmp_path_factory.mktemp("clients")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *PACKAGES], check=True)
    return python


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a service."""
    with client_service() as url:
        yield url


def test_unmodified_clients_get_what_the_service_answers(python: Path, url: str) -> None:
    names = ["openai", "langchain_openai", "cohere"]
    done = subprocess.run(
        [str(python), str(SCRIPT), url, *names],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [f"ok {name}" for name in names]
