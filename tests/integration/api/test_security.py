"""API keys, scopes and rate limits, also while a server is unavailable."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.routing import Route
from starlette.testclient import TestClient

from stitchwork.api.access import ADMIN, EXPORT, INFER, READ, required_scopes
from stitchwork.api.app import create_app
from stitchwork.api.dependencies import AppState
from stitchwork.api.executors import BoundedExecutor
from stitchwork.bootstrap.api import make_app_state
from stitchwork.errors import (
    ConflictError,
    InvalidInputError,
    QueueUnavailableError,
    RegistryUnavailableError,
    UnknownResourceError,
)
from stitchwork.redis import PREFIX
from stitchwork.redis.client import RedisClient
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.registry import api_keys as stored
from stitchwork.registry.api_key_cache import ApiKeyCache
from stitchwork.registry.api_keys import ApiKeyRepository
from stitchwork.resources import Scope
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics
from tests.conftest import Pair
from tests.support import machine
from tests.support.cluster import Cluster, Process
from tests.support.metric_samples import sample_value
from tests.support.move_reports import REPORT
from tests.support.servers import VALKEY_9, ServerProcess, server_binary
from tests.support.waiting import wait_until

OPEN = {
    *("/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"),
    *("/docs", "/docs/assets/{name}", "/redoc", "/openapi.json"),
    *("/", "/assets/{name}", "/guide", "/guide/{path}"),
}
SAMPLE = {"labels": ["a"], "embeddings": [[1.0]]}
SCOPES = (READ, INFER, EXPORT, ADMIN)


class KeyedService:
    """A service with keys of each scope."""

    def __init__(self, stage: Cluster) -> None:
        self.stage = stage
        self.server = RedisClient(stage.registry.url, 5.0, RegistryUnavailableError)
        self.store = ApiKeyRepository(self.server)
        self.keys = {scope: self.add(scope, scope) for scope in SCOPES}
        env = {"STITCHWORK_LOG_LEVEL": "info", "STITCHWORK_RATE_LIMITS": "admin=1000/minute"}
        self.api = stage.api(**env)

    def add(self, name: str, *scopes: Scope, **more: Any) -> str:
        key, record = stored.new(name, scopes, **more)
        self.store.add(record)
        return key

    def send(self, method: str, path: str, key: str = "", **more: Any) -> httpx.Response:
        return send(self.api, method, path, key, **more)


def send(api: Process, method: str, path: str, key: str = "", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.request(
        method, f"{api.url}{path}", headers=headers, timeout=machine.deadline(30), **more
    )


def is_refused(api: Process, key: str) -> bool:
    return send(api, "GET", "/spaces", key).status_code == 401


@pytest.fixture(scope="module")
def guarded() -> Iterator[KeyedService]:
    with Cluster(server_binary(VALKEY_9)) as stage:
        guarded = KeyedService(stage)
        yield guarded
        guarded.server.close()


@pytest.fixture
def parts(registry_server: RedisClient, queue_process: ServerProcess) -> Iterator[AppState]:
    """The state of an app whose registry has one key."""
    ApiKeyRepository(registry_server).add(stored.new("a", [READ])[1])
    urls = {"redis_url": registry_server.url, "queue_url": queue_process.url}
    parts = make_app_state(Settings.model_validate(urls))
    parts.api_keys.reload()
    yield parts
    for part in (parts.executor, parts.selection_executor, parts.inverses):
        part.close()


@pytest.fixture
def app(parts: AppState) -> FastAPI:
    """An app that is not served."""
    return create_app(parts)


def test_routes_without_a_key_are_refused_except_the_public_ones(app: FastAPI) -> None:
    added = APIRouter()
    for method in ("GET", "POST", "PUT", "DELETE"):
        added.add_api_route("/brand/new", lambda: "reached", methods=[method])
    app.include_router(added)

    async def ask() -> dict[tuple[str, str], int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return {
                (method, path): (await http.request(method, path)).status_code
                for route in every_route(app)
                for method in route.methods or ()
                # OpenAPI names a parameter that may hold slashes as any other.
                for path in [route.path.replace(":path}", "}")]
            }

    reached = asyncio.run(ask())
    assert len(reached) > 25
    assert ("POST", "/brand/new") in reached
    assert {path for _, path in reached} >= set(app.openapi()["paths"])
    admitted = {path for (_, path), status in reached.items() if status != 401}
    assert admitted == OPEN


def test_new_key_is_accepted_at_once_and_unknown_keys_are_rarely_looked_up(
    parts: AppState, registry_server: RedisClient
) -> None:
    keys = ApiKeyCache(parts.api_keys.keys, stale_seconds=60, required=False, lookup_seconds=60)
    keys.reload()
    app = create_app(replace(parts, api_keys=keys))

    def lookups() -> int:
        """How often the server was asked for the version of the keys; nothing else is read."""
        stats: Any = registry_server.redis.info("commandstats")
        return int(stats.get("cmdstat_get", {"calls": 0})["calls"])

    async def ask(*tokens: str) -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            headers = [{"Authorization": f"Bearer {key}"} for key in tokens]
            requests = [http.get("/info", headers=each) for each in headers]
            return [response.status_code for response in await asyncio.gather(*requests)]

    key, record = stored.new("new", [READ])
    keys.keys.add(record)
    registry_server.redis.config_resetstat()
    assert asyncio.run(ask(*[key] * 8)) == [200] * 8, "nothing else refreshes the keys here"
    assert lookups() == 1
    assert asyncio.run(ask(*(f"wrong-{i}" for i in range(50)))) == [401] * 50
    assert lookups() == 1, "within a minute of the last one there is no other"
    assert asyncio.run(ask(key)) == [200]


def every_route(part: Any) -> list[Route]:
    """All routes of an app or a router, those of nested routers included."""
    routes: list[Route] = []
    for route in part.routes:
        router = getattr(route, "original_router", None)
        routes += every_route(router) if router else [route]
    return routes


@pytest.mark.parametrize(
    ("method", "path", "scopes"),
    [
        ("GET", "/spaces/x", (READ,)),
        ("HEAD", "/spaces/x", (READ,)),
        ("GET", "/workers", (READ,)),
        ("GET", "/metrics", (READ,)),
        ("GET", "/info", (READ, INFER)),
        ("PUT", "/spaces/x", (ADMIN,)),
        ("DELETE", "/heads/x", (ADMIN,)),
        ("POST", "/spaces", (ADMIN,)),
        ("POST", "/anchors/choose", (READ,)),
        ("POST", "/spaces/x/anchors/nearest", (EXPORT,)),
        ("GET", "/spaces/x/translations/y", (EXPORT,)),
        ("GET", "/moves", (READ,)),
        ("GET", "/moves/x", (READ, EXPORT)),
        ("PUT", "/moves/x", (EXPORT,)),
        ("PUT", "/moves/x/assessment", (EXPORT,)),
        ("DELETE", "/moves/x", (ADMIN,)),
        ("POST", "/translate", (INFER,)),
        ("POST", "/translate/", (ADMIN,)),
        ("POST", "/translate\n", (ADMIN,)),
        ("POST", "/stitch/x/h", (INFER,)),
        ("POST", "/stitch/x/h/more", (ADMIN,)),
        ("POST", "/v1/embeddings", (INFER,)),
        ("POST", "/v1/rerank", (INFER,)),
        ("POST", "/v2/rerank", (INFER,)),
        ("POST", "/tei/x/embed", (INFER,)),
        ("POST", "/tei/x", (INFER,)),
        ("GET", "/tei/x/info", (READ, INFER)),
        ("POST", "/tei", (ADMIN,)),
        ("POST", "/v2/models/x/infer", (INFER,)),
        ("POST", "/v2/models/x/versions/1/infer", (INFER,)),
        ("GET", "/v2/health/ready", ()),
        ("POST", "/health/live", (ADMIN,)),
        ("BREW", "/nowhere", (ADMIN,)),
    ],
)
def test_required_scopes_of_path(method: str, path: str, scopes: tuple[Scope, ...]) -> None:
    assert required_scopes(method, path) == scopes


def test_required_scopes_of_metrics_follow_the_setting() -> None:
    assert required_scopes("GET", "/metrics", metrics_public=True) == ()
    assert required_scopes("GET", "/workers", metrics_public=True) == (READ,)


@pytest.mark.parametrize(
    ("method", "path", "status", "sufficient"),
    [
        ("GET", "/spaces", 200, {READ, ADMIN}),
        ("POST", "/translate", 400, {INFER, ADMIN}),
        ("PUT", "/spaces/x", 400, {ADMIN}),
        ("GET", "/info", 200, {READ, INFER, ADMIN}),
        ("GET", "/nowhere", 404, {READ, ADMIN}),
    ],
)
def test_key_with_a_scope_is_admitted_to_its_paths_only(
    guarded: KeyedService, method: str, path: str, status: int, sufficient: set[Scope]
) -> None:
    for scope in SCOPES:
        response = guarded.send(method, path, guarded.keys[scope])
        if scope in sufficient:
            assert response.status_code == status
            continue
        error = response.json()
        assert (response.status_code, error["code"]) == (403, "insufficient-scope")
        assert (
            f"scope {' or '.join(required_scopes(method, path))}, {scope} has {scope}"
            in error["detail"]
        )
        assert 'error="insufficient_scope"' in response.headers["www-authenticate"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer é"},
        {"X-API-Key": "sw_x"},
    ],
)
def test_request_without_a_valid_key_gets_a_challenge(
    guarded: KeyedService, headers: dict[str, str]
) -> None:
    raw = {name: value.encode() for name, value in headers.items()}
    response = httpx.get(f"{guarded.api.url}/spaces", headers=raw)  # type: ignore[arg-type]
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"].startswith('Bearer realm="stitchwork"')
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert guarded.send("GET", "/health/live").status_code == 200


def test_authentication_errors_have_the_format_of_the_path(guarded: KeyedService) -> None:
    response = guarded.send("POST", "/v1/embeddings", "wrong", json={})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert guarded.send("GET", "/v1/models", guarded.keys[INFER]).status_code == 200
    response = guarded.send("POST", "/v2/models/x/infer", guarded.keys[READ], json={})
    assert response.status_code == 403
    assert "expected a key of scope infer" in response.json()["error"]


def test_keys_change_without_a_restart(guarded: KeyedService) -> None:
    first = guarded.add("app-1", READ)
    wait_until("it is admitted", lambda: is_admitted(guarded, first))
    second = guarded.add("app-2", READ)
    wait_until("both are admitted", lambda: is_admitted(guarded, second))
    assert is_admitted(guarded, first)
    guarded.store.remove("app-1")
    wait_until("it is refused", lambda: not is_admitted(guarded, first))
    assert is_admitted(guarded, second)


def is_admitted(guarded: KeyedService, key: str) -> bool:
    return guarded.send("GET", "/spaces", key).is_success


def test_expired_key_is_refused(guarded: KeyedService) -> None:
    now = datetime.now(UTC)
    over = guarded.add("over", READ, expires=now - timedelta(seconds=1))
    going = guarded.add("going", READ, expires=now + timedelta(hours=1))
    wait_until("it is admitted", lambda: is_admitted(guarded, going))
    assert guarded.send("GET", "/spaces", over).status_code == 401


def test_calibration_requires_scope_admin(guarded: KeyedService) -> None:
    path = "/compatibility/nobody/nothing"
    judged = guarded.send("POST", path, guarded.keys[INFER], json=SAMPLE)
    assert judged.status_code == 404
    calibrating = {**SAMPLE, "calibrate": True}
    assert guarded.send("POST", path, guarded.keys[INFER], json=calibrating).status_code == 403
    assert guarded.send("POST", path, guarded.keys[ADMIN], json=calibrating).status_code == 404


def test_nearest_anchors_require_scope_export(guarded: KeyedService) -> None:
    path, rows = "/spaces/nobody/anchors/nearest", {"embeddings": [[1.0]]}
    for scope, status in (READ, 403), (INFER, 403), (EXPORT, 404), (ADMIN, 404):
        response = guarded.send("POST", path, guarded.keys[scope], json=rows)
        assert response.status_code == status, (scope, response.text)


def test_move_is_reported_by_its_key_and_admins(guarded: KeyedService) -> None:
    other = guarded.add("export-2", EXPORT)
    wait_until(
        "its key is known", lambda: guarded.send("GET", "/moves/none", other).status_code == 404
    )
    paths = {"/moves/owned": REPORT, "/moves/owned/assessment": {"sample": 1}}
    for path, body in paths.items():
        for key, status in (guarded.keys[EXPORT], 204), (other, 403), (guarded.keys[ADMIN], 204):
            response = guarded.send("PUT", path, key, json=body)
            assert response.status_code == status, response.text
            if status == 403:
                problem = response.json()
                assert problem["code"] == "insufficient-scope"
                assert "move owned is reported with another key" in problem["detail"]


def test_log_has_the_name_of_the_key_and_never_the_key(guarded: KeyedService) -> None:
    response = guarded.send("GET", "/spaces", guarded.keys[READ])
    request_id = response.headers["x-request-id"]
    wait_until("it is logged", lambda: request_id in guarded.api.log())
    line = next(line for line in guarded.api.log().splitlines() if request_id in line)
    assert json.loads(line)["key"] == "read"
    assert guarded.keys[READ] not in guarded.api.log()
    records: Any = guarded.stage.records.hgetall(PREFIX + stored.KEYS)
    for name, key in guarded.keys.items():
        assert key.encode() not in b"".join(records.values())
        assert stored.digest(key).encode() in records[name.encode()]


def test_client_that_disconnects_during_its_body_is_not_an_error(guarded: KeyedService) -> None:
    host, port = guarded.api.url.removeprefix("http://").split(":")
    head = (
        "POST /translate HTTP/1.1\r\nHost: x\r\nX-Request-ID: left\r\n"
        f"Authorization: Bearer {guarded.keys[INFER]}\r\nContent-Length: 1000\r\n\r\nx"
    )
    with closing(socket.create_connection((host, int(port)))) as connection:
        connection.sendall(head.encode())
    wait_until("it is logged", lambda: '"request_id":"left"' in guarded.api.log())
    (line,) = (line for line in guarded.api.log().splitlines() if '"request_id":"left"' in line)
    assert json.loads(line)["status"] == 499
    assert "request failed" not in guarded.api.log()


def test_openapi_document_has_the_security_scheme(guarded: KeyedService) -> None:
    document = guarded.send("GET", "/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["components"]["securitySchemes"]["header"]["name"] == "X-API-Key"
    assert document["paths"]["/translate"]["post"]["security"] == [
        {"key": ["infer"]},
        {"header": ["infer"]},
    ]
    assert document["paths"]["/health/live"]["get"]["security"] == []


def test_rate_limits_are_sent_and_enforced(guarded: KeyedService) -> None:
    key = guarded.add("busy", READ, limit="3/minute;100/day")
    wait_until("it is known", lambda: guarded.send("GET", "/info", key).status_code != 401)
    responses = [guarded.send("GET", "/info", key) for _ in range(4)]
    assert [response.status_code for response in responses] == [200, 200, 429, 429]
    assert responses[0].headers["ratelimit-policy"] == '"requests";q=3;w=60'
    assert responses[0].headers["ratelimit"].startswith('"requests";r=1;t=')
    refused = responses[-1]
    assert refused.json()["code"] == "rate-limit-exceeded"
    assert (
        "expected at most 3 requests of key busy in 60 seconds (the limit of the key)"
        in refused.json()["detail"]
    )
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    put = guarded.send("PUT", "/spaces/x", guarded.keys[ADMIN])
    assert put.headers["ratelimit-policy"] == '"requests";q=1000;w=60'
    assert "ratelimit" not in guarded.send("GET", "/spaces", guarded.keys[READ]).headers


def test_request_above_a_whole_rate_is_not_to_be_sent_again(guarded: KeyedService) -> None:
    key = guarded.add("few", INFER, limit="3 items/minute")
    encoder = {"kind": "timm", "model": "resnet18", "weights": "/models/resnet18.safetensors"}
    space = {"anchor_set": "few", "encoder": encoder, "anchors": [[1.0, 0.0], [0.0, 1.0]]}
    assert guarded.send("PUT", "/spaces/few", guarded.keys[ADMIN], json=space).is_success
    wait_until("it is known", lambda: guarded.send("GET", "/info", key).status_code != 401)
    items = ["aGk="] * 4
    embed = guarded.send("POST", "/embed/few", key, json={"items": items})
    assert (embed.status_code, embed.json()["code"]) == (413, "input-too-large")
    # The query counts as well.
    body = {"model": "few", "query": items[0], "documents": items[1:]}
    rerank = guarded.send("POST", "/v1/rerank", key, json=body)
    assert (rerank.status_code, rerank.json()["error"]["code"]) == (400, "input-too-large")
    # Blank texts count, though nothing is embedded.
    encoder = {"kind": "transformers", "model": "/models/bert"}
    assert guarded.send(
        "PUT", "/spaces/few-texts", guarded.keys[ADMIN], json={**space, "encoder": encoder}
    ).is_success
    body = {"items": [""] * 4, "blank_texts": "null"}
    blank = guarded.send("POST", "/embed/few-texts", key, json=body)
    assert (blank.status_code, blank.json()["code"]) == (413, "input-too-large")
    for response in (embed, rerank, blank):
        assert "at most 3 items of key few in 60 seconds" in response.text
        assert "got a request of 4" in response.text
        assert "retry-after" not in response.headers


def test_rate_limits_are_shared_by_replicas_and_counted_per_key(queue_server: RedisClient) -> None:
    async def run() -> None:
        replicas = [RateLimiter(queue_server, {READ: "2/hour"}) for _ in range(2)]
        one, other = (stored.new(name, [READ])[1] for name in ("one", "other"))
        statuses = [await rates.hit(one, READ, requests=1) for rates in (*replicas, replicas[0])]
        assert [status and status.allowed for status in statuses] == [True, True, False]
        status = await replicas[0].hit(other, READ, requests=1)
        assert status
        assert (status.allowed, status.remaining) == (True, 1)
        assert await replicas[0].hit(one, INFER, requests=1) is None

    asyncio.run(run())


def test_rate_limits_are_not_enforced_while_the_queue_server_is_unavailable(tmp_path: Path) -> None:
    async def run() -> None:
        assert [await rates.hit(None, READ, requests=1) for _ in range(3)] == [None] * 3

    metrics = Metrics()
    away = RedisClient(f"unix://{tmp_path}/none", 0.2, QueueUnavailableError)
    rates = RateLimiter(away, {READ: "1/hour"}, metrics)
    asyncio.run(run())
    assert sample_value(metrics, "rate_limit_unchecked_requests_total") == 3


def test_key_names_are_unique(registry_server: RedisClient) -> None:
    keys = ApiKeyRepository(registry_server)
    keys.add(stored.new("a", [READ])[1])
    with pytest.raises(ConflictError, match="there already"):
        keys.add(stored.new("a", [ADMIN])[1])
    with pytest.raises(UnknownResourceError):
        keys.remove("b")
    with pytest.raises(InvalidInputError):
        stored.new("a b", [READ])


@pytest.mark.parametrize(
    "line",
    [
        "a read",
        "a write " + "0" * 64,
        "a read 123",
        "a read " + "0" * 64 + " tomorrow",
        "a read " + "0" * 64 + " 2030-01-01",
        "a/b read " + "0" * 64,
    ],
)
def test_invalid_line_of_a_key_file_is_reported_without_its_content(
    tmp_path: Path, line: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{line}\n")
    keys, (error,) = stored.read_file(file)
    assert keys == []
    assert "line 3: expected NAME SCOPE" in error.message
    assert line.split()[-1] not in str(error).replace(str(file), "")


def test_key_file_allows_a_public_address(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    public = {"STITCHWORK_HOST": "0.0.0.0"}  # noqa: S104
    with Cluster(server_binary(VALKEY_9)) as stage:
        first, record = stored.new("one", [READ])
        file.write_text(stored.line(record))
        api = stage.api(**public, STITCHWORK_KEY_FILE=str(file))
        assert "authentication disabled" not in api.log()
        assert send(api, "GET", "/spaces", first).status_code == 200

        second, record = stored.new("two", [READ])
        file.write_text(stored.line(record))
        wait_until("another key", lambda: send(api, "GET", "/spaces", second).is_success)
        assert send(api, "GET", "/spaces", first).status_code == 401
        # Without any key it stays closed, because other machines can reach it.
        file.write_text("")
        wait_until("no key", lambda: send(api, "GET", "/spaces", second).status_code == 401)
        assert send(api, "GET", "/spaces").status_code == 401


def test_public_address_refuses_requests_until_there_is_a_key(tmp_path: Path) -> None:
    admin = "k" * 32
    with Cluster(server_binary(VALKEY_9)) as stage:
        envs = ({"STITCHWORK_HOST": "0.0.0.0"}, {"STITCHWORK_REQUIRE_KEYS": "true"})  # noqa: S104
        apis = [stage.api(**env) for env in envs]
        for api in apis:
            assert "no API key exists" in api.log()
            assert send(api, "GET", "/spaces").status_code == 401
            assert send(api, "PUT", "/anchor-sets/s", json={"size": 9}).status_code == 401
            assert send(api, "GET", "/health/live").status_code == 200
        key, record = stored.new("first", [ADMIN])
        with closing(RedisClient(stage.registry.url, 5.0, RegistryUnavailableError)) as server:
            ApiKeyRepository(server).add(record)
            for api in apis:
                assert send(api, "GET", "/spaces", key).status_code == 200, "at once"
            server.redis.flushall()
        for api in apis:
            wait_until("it is lost", partial(is_refused, api, key))
        api = stage.api(STITCHWORK_REQUIRE_KEYS="true", STITCHWORK_ADMIN_KEY=admin)
        assert "no API key exists" not in api.log()
        assert admin not in api.log()
        assert send(api, "PUT", "/anchor-sets/s", admin, json={"size": 9}).status_code == 201
        assert send(api, "GET", "/spaces").status_code == 401


def test_restart_after_the_registry_was_lost_does_not_open_the_service(tmp_path: Path) -> None:
    with Cluster(server_binary(VALKEY_9)) as stage:
        key, record = stored.new("first", [ADMIN])
        with closing(RedisClient(stage.registry.url, 5.0, RegistryUnavailableError)) as server:
            ApiKeyRepository(server).add(record)
            api = stage.api(STITCHWORK_REQUIRE_KEYS="true")
            assert send(api, "GET", "/spaces", key).status_code == 200
            server.redis.flushall()
        for process in (api, stage.api(STITCHWORK_REQUIRE_KEYS="true")):
            wait_until("closed", partial(is_refused, process, key))
            assert send(process, "GET", "/spaces").status_code == 401


def test_revoked_key_of_a_damaged_key_file_is_not_accepted(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    (good, first), (revoked, second) = stored.new("good", [READ]), stored.new("revoked", [READ])
    lines = [stored.line(first), stored.line(second)]
    file.write_text("\n".join(lines))
    with Cluster(server_binary(VALKEY_9)) as stage:
        api = stage.api(STITCHWORK_KEY_FILE=str(file))
        assert send(api, "GET", "/spaces", revoked).status_code == 200
        file.write_text(f"{lines[0]}\nhalf a line")
        wait_until("revoked", lambda: send(api, "GET", "/spaces", revoked).status_code == 401)
        assert send(api, "GET", "/spaces", good).status_code == 200, "other lines go on"
        assert "line 2: expected NAME SCOPE" in api.log()
        file.unlink()
        wait_until("no file", lambda: send(api, "GET", "/spaces", good).status_code == 401)
        assert send(api, "GET", "/spaces").status_code == 401


def test_readiness_without_a_key_says_only_yes_or_no(guarded: KeyedService) -> None:
    for path in ("/health/ready", "/v2/health/ready"):
        for key in ("", "sw_unknown"):
            response = guarded.send("GET", path, key)
            assert (response.status_code, response.json()) == (200, {"ready": True})
            response = guarded.send("GET", f"{path}?workers=1", key)
            assert (response.status_code, response.json()) == (503, {"ready": False})
            response = guarded.send("GET", f"{path}?workers=2", key)
            assert response.status_code == 422
            assert "expected at most 1 without a valid key, got 2" in response.text
        assert guarded.send("GET", f"{path}?workers=2", guarded.keys[READ]).status_code == 503
        for scope in SCOPES:
            body = guarded.send("GET", path, guarded.keys[scope]).json()
            assert body.keys() >= {"registry", "queue", "workers"}
            assert body["workers"] == 0


def test_api_whose_threads_are_stalled_is_not_ready(parts: AppState) -> None:
    executor = BoundedExecutor(threads=1, stalled_seconds=0.0)
    resume = threading.Event()
    state = replace(parts, executor=executor)
    try:
        with TestClient(create_app(state)) as client, ThreadPoolExecutor(1) as pool:
            assert client.get("/health/ready").status_code == 200
            blocked = pool.submit(asyncio.run, executor.run(resume.wait, machine.deadline(60)))
            wait_until("it is not ready", lambda: client.get("/health/ready").status_code == 503)
            assert client.get("/health/live").status_code == 200
            resume.set()
            assert blocked.result()
            assert client.get("/health/ready").status_code == 200
    finally:
        resume.set()


def test_export_needs_a_scope_that_infer_does_not_include(guarded: KeyedService) -> None:
    path = "/spaces/x/translations/y"
    statuses = {
        scope: guarded.send("GET", path, guarded.keys[scope]).status_code for scope in SCOPES
    }
    assert statuses == {READ: 403, INFER: 403, EXPORT: 404, ADMIN: 404}
    assert guarded.send("GET", "/spaces", guarded.keys[EXPORT]).status_code == 403


def test_loopback_without_keys_is_open(http: httpx.Client, spaces: Pair) -> None:
    assert http.get("/spaces").status_code == 200
    assert http.get("/spaces", headers={"Authorization": "Bearer any"}).status_code == 200


def test_keys_of_a_file_are_known_without_the_registry(tmp_path: Path) -> None:
    key, record = stored.new("me", [READ])
    file = tmp_path / "keys"
    file.write_text(stored.line(record))
    away = ApiKeyRepository(RedisClient(f"unix://{tmp_path}/none", 0.2, RegistryUnavailableError))
    cache = ApiKeyCache(away, file, stale_seconds=300, required=False)
    assert cache.find(key)
    # The registry may have this key.
    with pytest.raises(RegistryUnavailableError):
        cache.find("another")


def test_known_keys_stay_valid_while_the_registry_is_unavailable() -> None:
    env = {
        "STITCHWORK_STALE_SECONDS": "5",
        "STITCHWORK_REDIS_TIMEOUT_SECONDS": "1",
        "STITCHWORK_DURABLE": "false",
    }
    with Cluster(server_binary(VALKEY_9)) as stage:
        key, record = stored.new("me", [READ])
        server = RedisClient(stage.registry.url, 5.0, RegistryUnavailableError)
        ApiKeyRepository(server).add(record)
        server.close()
        informed = stage.api(**env)
        stage.registry.stop(kill=True)

        assert send(informed, "GET", "/info", key).status_code == 200
        assert send(informed, "GET", "/info", "wrong").status_code == 401
        # It starts while the keys of the other one age.
        never = stage.api(**env)
        wait_until("it is too old", lambda: send(informed, "GET", "/info", key).status_code == 503)
        assert send(informed, "GET", "/health/live").status_code == 200
        for token in (key, ""):
            response = send(never, "GET", "/info", token)
            assert (response.status_code, response.json()["code"]) == (503, "registry-unavailable")

        stage.registry.start()
        for api in (informed, never):
            wait_until("it is admitted", partial(succeeds, api, key))
        # An empty registry admits nobody.
        stage.records.flushall()
        wait_until("it is refused", lambda: not succeeds(informed, key))
        assert send(informed, "GET", "/info").status_code == 401


def succeeds(api: Process, key: str) -> bool:
    return send(api, "GET", "/info", key).is_success
