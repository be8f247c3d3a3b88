"""What OpenAPI says against what the running service does, by schemathesis with all its checks."""

import os
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.config import SchemathesisConfig

from tests.api.conftest import register
from tests.conftest import Pair
from tests.service import running

NO_WORKER = ("/embed", "/stitch")
"""What needs a worker, which the service here does without: 503 is the right answer."""


@pytest.fixture(scope="module")
def bare(pair: Pair) -> Iterator[str]:
    """A service of its own: what is made up here may remove anything."""
    with running(workers=0, STITCHWORK_MAX_BODY_BYTES="2000000") as found:
        with httpx.Client(base_url=found.url, timeout=30) as http:
            register(http, pair)
        yield found.url


@pytest.fixture(scope="module")
def contract(bare: str) -> schemathesis.BaseSchema:
    config = SchemathesisConfig.from_dict(
        {"checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", 503, 504]}}}
    )
    return schemathesis.openapi.from_url(f"{bare}/openapi.json", config=config)


schema = schemathesis.pytest.from_fixture("contract")
bounded = settings(
    max_examples=int(os.environ.get("CONTRACT_EXAMPLES", "6")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


@schema.parametrize()
@bounded
def test_every_route_keeps_its_contract(case: Case) -> None:
    case.call_and_validate(timeout=30)
