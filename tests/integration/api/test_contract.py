"""The running service against its OpenAPI document, by schemathesis with all its checks."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stitchwork.api.access import ADMIN
from stitchwork.registry import api_keys
from tests.conftest import Pair
from tests.integration.api.conftest import register
from tests.support import machine
from tests.support.running_service import running

Service = tuple[str, str]
"""URL of a service, and a key with scope admin."""
CONFIG = Path(__file__).parent / "schemathesis.toml"


@pytest.fixture(scope="module")
def service(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for this module alone: generated requests may remove anything."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    key, record = api_keys.new("contract", [ADMIN])
    file.write_text(api_keys.line(record))
    with running(
        workers=0, STITCHWORK_MAX_BODY_BYTES="2000000", STITCHWORK_KEY_FILE=str(file)
    ) as process:
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(
            base_url=process.url, timeout=machine.deadline(30), headers=headers
        ) as http:
            register(http, pair)
        yield process.url, key


def check_conformance(service: Service, *options: str, seconds: float) -> None:
    """Run schemathesis in a process, and fail with its output."""
    url, key = service
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    header = f"Authorization: Bearer {key}"
    checks = ("--checks", "all", "--warnings", "off", "--header", header)
    result = subprocess.run(
        [*command, f"{url}/openapi.json", *checks, *options],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "Stateful" in result.stdout


def test_every_route_conforms_to_the_document(service: Service) -> None:
    """Every boundary of every parameter once, and a few random requests."""
    check_conformance(service, "--max-examples", "2", "--no-shrink", "--seed", "1", seconds=250)


@pytest.mark.slow
def test_every_route_conforms_to_the_document_at_length(service: Service) -> None:
    """Many more requests, with a fixed seed so that an unchanged service passes again."""
    options = ("--max-examples", "120", "--continue-on-failure", "--seed", "2")
    check_conformance(service, *options, seconds=900)
