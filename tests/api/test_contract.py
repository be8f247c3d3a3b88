"""What OpenAPI says against what the running service does, by schemathesis with all its checks."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.conftest import register
from tests.conftest import Pair
from tests.service import running

CONFIG = Path(__file__).parent / "schemathesis.toml"


@pytest.fixture(scope="module")
def bare(pair: Pair) -> Iterator[str]:
    """A service of its own: what is made up here may remove anything."""
    with running(workers=0, STITCHWORK_MAX_BODY_BYTES="2000000") as found:
        with httpx.Client(base_url=found.url, timeout=30) as http:
            register(http, pair)
        yield found.url


def keeps_contract(url: str, *options: str, seconds: float) -> None:
    """Run schemathesis, in a process of its own, and fail with what it says."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    told = subprocess.run(
        [*command, f"{url}/openapi.json", "--checks", "all", "--warnings", "off", *options],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert told.returncode == 0, told.stdout[-6000:] + told.stderr[-2000:]
    assert "Stateful" in told.stdout


def test_every_route_keeps_its_contract(bare: str) -> None:
    """Every boundary of every parameter once, and a few requests at random."""
    keeps_contract(bare, "--max-examples", "2", "--no-shrink", "--seed", "1", seconds=250)


@pytest.mark.slow
def test_every_route_keeps_its_contract_for_ten_minutes(bare: str) -> None:
    """The same with other requests each time; the report names the seed."""
    keeps_contract(bare, "--max-time", "600", "--continue-on-failure", seconds=1200)
