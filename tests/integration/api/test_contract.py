"""What OpenAPI says against what the running service does, by schemathesis with all its checks."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stitchwork.api.middleware.auth import ADMIN
from stitchwork.registry import api_keys
from tests.conftest import Pair
from tests.integration.api.conftest import register
from tests.support.running_service import running

Service = tuple[str, str]
"""A service's address, and a key that opens all of it."""
CONFIG = Path(__file__).parent / "schemathesis.toml"


@pytest.fixture(scope="module")
def bare(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of its own: what is made up here may remove anything."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    key, record = api_keys.new("contract", [ADMIN])
    file.write_text(api_keys.line(record))
    with running(
        workers=0, STITCHWORK_MAX_BODY_BYTES="2000000", STITCHWORK_KEY_FILE=str(file)
    ) as found:
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=found.url, timeout=30, headers=headers) as http:
            register(http, pair)
        yield found.url, key


def keeps_contract(service: Service, *options: str, seconds: float) -> None:
    """Run schemathesis, in a process of its own, and fail with what it says."""
    url, key = service
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    header = f"Authorization: Bearer {key}"
    checks = ("--checks", "all", "--warnings", "off", "--header", header)
    told = subprocess.run(
        [*command, f"{url}/openapi.json", *checks, *options],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert told.returncode == 0, told.stdout[-6000:] + told.stderr[-2000:]
    assert "Stateful" in told.stdout


def test_every_route_keeps_its_contract(bare: Service) -> None:
    """Every boundary of every parameter once, and a few requests at random."""
    keeps_contract(bare, "--max-examples", "2", "--no-shrink", "--seed", "1", seconds=250)


@pytest.mark.slow
def test_every_route_keeps_its_contract_for_minutes(bare: Service) -> None:
    """Many more requests, the same each time: who changed nothing is not to be told of a fault."""
    options = ("--max-examples", "120", "--continue-on-failure", "--seed", "2")
    keeps_contract(bare, *options, seconds=900)
