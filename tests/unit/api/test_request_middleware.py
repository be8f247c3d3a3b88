"""The log record, the metrics and the id of each request."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from stitchwork.api.executors import Load
from stitchwork.api.middleware.auth import Authorizer
from stitchwork.api.middleware.request_body import BodyLimits
from stitchwork.api.middleware.request_middleware import RequestMiddleware
from stitchwork.errors import RegistryUnavailableError
from stitchwork.redis.client import RedisClient
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.registry import api_keys
from stitchwork.registry.api_key_cache import ApiKeyCache
from stitchwork.registry.api_keys import ApiKeyRepository
from stitchwork.resources import Scope as KeyScope
from stitchwork.telemetry import Metrics, Telemetry
from tests.support.request_limits import LIMITS

AccessLog = Callable[[], list[logging.LogRecord]]


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a bug")


def get(app: Any, path: str, **headers: str) -> httpx.Response:
    """The response of the middleware around an app, to a request with a key of a file."""
    key, record = api_keys.new("me", [KeyScope.ADMIN])

    async def request(file: Path) -> httpx.Response:
        server = RedisClient(f"unix://{file}", 0.1, RegistryUnavailableError)
        keys = ApiKeyCache(ApiKeyRepository(server), file, stale_seconds=60, required=True)
        middleware = RequestMiddleware(
            app,
            (),
            authorizer=Authorizer(keys, RateLimiter(server, {})),
            body_limits=BodyLimits(LIMITS),
            telemetry=Telemetry(Metrics()),
            load=Load(),
        )
        transport = httpx.ASGITransport(middleware)
        headers["Authorization"] = f"Bearer {key}"
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(path, headers=headers)

    with TemporaryDirectory() as folder:
        file = Path(folder) / "keys"
        file.write_text(api_keys.line(record))
        return asyncio.run(request(file))


@pytest.fixture
def access_log(caplog: pytest.LogCaptureFixture) -> AccessLog:
    caplog.set_level(logging.DEBUG, "stitchwork")
    return lambda: [record for record in caplog.records if record.name.startswith("stitchwork")]


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v2/health/ready"])
def test_request_to_health_is_logged_at_debug_level(access_log: AccessLog, path: str) -> None:
    get(ok, path)
    assert [record.levelno for record in access_log()] == [logging.DEBUG]


@pytest.mark.parametrize("path", ["/info", "/healthy", "/spaces/health/"])
def test_request_to_other_paths_is_logged_at_info_level(access_log: AccessLog, path: str) -> None:
    get(ok, path)
    (record,) = access_log()
    assert (record.levelno, record.getMessage()) == (logging.INFO, "request completed")
    fields: dict[str, Any] = vars(record)
    assert (fields["method"], fields["status"], fields["key"]) == ("GET", 200, "me")
    assert fields["duration_ms"] > 0


def test_request_that_fails_is_logged_with_its_error(access_log: AccessLog) -> None:
    response = get(fails, "/info", **{"X-Request-ID": "mine"})
    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert "a bug" not in response.text
    failure, record = access_log()
    assert (failure.levelno, failure.getMessage()) == (logging.ERROR, "request failed")
    assert failure.exc_info
    assert isinstance(failure.exc_info[1], RuntimeError)
    assert vars(record)["code"] == "internal"


def test_request_id_of_the_client_is_returned_if_it_is_plain() -> None:
    assert get(ok, "/", **{"X-Request-ID": "mine-1.a_b"}).headers["x-request-id"] == "mine-1.a_b"
    for invalid in ("a b", "a\tb", "x" * 129, ""):
        request_id = get(ok, "/", **{"X-Request-ID": invalid}).headers["x-request-id"]
        assert request_id
        assert request_id != invalid
