"""A service of one API process, and two spaces on it."""

from collections.abc import Iterator

import httpx
import pytest

from stitchwork.supervisor import ServiceProcess
from tests.conftest import Pair
from tests.support import machine
from tests.support.running_service import running


@pytest.fixture(scope="session")
def service() -> Iterator[ServiceProcess]:
    with running(workers=0, STITCHWORK_MAX_BODY_BYTES="2000000") as process:
        yield process


@pytest.fixture(scope="session")
def url(service: ServiceProcess) -> str:
    return service.url


@pytest.fixture(scope="session")
def pid(service: ServiceProcess) -> int:
    """The API process."""
    (api,) = [pid for name, pid in service.pids.items() if name.startswith("api")]
    return api


@pytest.fixture(scope="session")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=machine.deadline(30)) as client:
        yield client


@pytest.fixture(scope="session")
def spaces(http: httpx.Client, pair: Pair) -> Pair:
    """Spaces x and y on the set S, and a head h of two classes in y."""
    register(http, pair)
    return pair


def register(http: httpx.Client, pair: Pair) -> None:
    """Register x, y and h."""
    for name, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors)):
        body = {"anchor_set": "S", "anchors": anchors.tolist()}
        assert http.put(f"/spaces/{name}", json=body).status_code == 201
    weight = [[1.0] * 32, [-1.0] * 32]
    head = {"space": "y", "weight": weight, "bias": [0, 1], "labels": ["a", "<b>"]}
    assert http.put("/heads/h", json=head).status_code == 201
