"""Keys and scopes: who gets in, to what, and what holds while a server is away."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.routing import Route

from stitchwork.api.app import create_app
from stitchwork.api.dependencies import AppState
from stitchwork.api.middleware.auth import ADMIN, INFER, READ, required_scopes
from stitchwork.bootstrap.api import api_parts
from stitchwork.errors import (
    ConflictError,
    InvalidInputError,
    QueueUnavailableError,
    RegistryUnavailableError,
    UnknownResourceError,
)
from stitchwork.redis.client import RedisClient
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.registry import api_keys as stored
from stitchwork.registry.api_keys import ApiKeyCache, ApiKeyRepository
from stitchwork.resources import Scope
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics
from tests.conftest import Pair
from tests.support.cluster import Cluster, Process
from tests.support.metric_samples import sample_value
from tests.support.servers import VALKEY_9, ServerProcess, server_binary
from tests.support.waiting import wait_until

OPEN = {
    *("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"),
    *("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"),
}
SAMPLE = {"labels": ["a"], "embeddings": [[1.0]]}
SCOPES = (READ, INFER, ADMIN)


class House:
    """A service with keys of each scope."""

    def __init__(self, stage: Cluster) -> None:
        self.stage = stage
        self.server = RedisClient(stage.registry.url, 5.0, RegistryUnavailableError)
        self.store = ApiKeyRepository(self.server)
        self.keys = {scope: self.add(scope, scope) for scope in SCOPES}
        env = {"STITCHWORK_LOG_LEVEL": "info", "STITCHWORK_RATE_LIMITS": "admin=1000/minute"}
        self.api = stage.api(**env)

    def add(self, name: str, scope: Scope, **more: Any) -> str:
        key, record = stored.new(name, [scope], **more)
        self.store.add(record)
        return key

    def send(self, method: str, path: str, key: str = "", **more: Any) -> httpx.Response:
        return send(self.api, method, path, key, **more)


def send(api: Process, method: str, path: str, key: str = "", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.request(method, f"{api.url}{path}", headers=headers, timeout=30, **more)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with Cluster(server_binary(VALKEY_9)) as stage:
        found = House(stage)
        yield found
        found.server.close()


@pytest.fixture
def parts(registry_server: RedisClient, queue_process: ServerProcess) -> Iterator[AppState]:
    """What an app is made of that knows the one key of its registry."""
    ApiKeyRepository(registry_server).add(stored.new("a", [READ])[1])
    urls = {"redis_url": registry_server.url, "queue_url": queue_process.url}
    parts = api_parts(Settings.model_validate(urls))
    parts.api_keys.look()
    yield parts
    for part in (parts.executor, parts.comparison_executor, parts.inverses):
        part.close()


@pytest.fixture
def app(parts: AppState) -> FastAPI:
    """An app of its own, not served."""
    return create_app(parts)


def test_no_route_is_reached_without_a_key(app: FastAPI) -> None:
    added = APIRouter()
    for method in ("GET", "POST", "PUT", "DELETE"):
        added.add_api_route("/brand/new", lambda: "reached", methods=[method])
    app.include_router(added)

    async def ask() -> dict[tuple[str, str], int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return {
                (method, route.path): (await http.request(method, route.path)).status_code
                for route in every_route(app)
                for method in route.methods or ()
            }

    reached = asyncio.run(ask())
    assert len(reached) > 25
    assert ("POST", "/brand/new") in reached
    assert {path for _, path in reached} >= set(app.openapi()["paths"])
    let_in = {path for (_, path), status in reached.items() if status != 401}
    assert let_in == OPEN


def test_a_new_key_is_looked_for_at_once_and_others_cost_little(
    parts: AppState, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, looked = parts.api_keys.keys, list[bytes]()
    version = keys.version

    def seen() -> bytes:
        looked.append(version())
        return looked[-1]

    monkeypatch.setattr(keys, "version", seen)

    async def ask(*presented: str) -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            headers = [{"Authorization": f"Bearer {key}"} for key in presented]
            asked = [http.get("/info", headers=each) for each in headers]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    key, record = stored.new("new", [READ])
    keys.add(record)
    assert asyncio.run(ask(*[key] * 8)) == [200] * 8, "nothing else looks for keys here"
    assert len(looked) == 1
    monkeypatch.setattr("stitchwork.api.middleware.auth.REFRESH_INTERVAL_SECONDS", 60.0)
    looked.clear()
    wait_until("the pause is over", lambda: asyncio.run(ask("wrong")) == [401] and looked)
    assert asyncio.run(ask(*(f"wrong-{i}" for i in range(50)))) == [401] * 50
    assert len(looked) == 1
    assert asyncio.run(ask(key)) == [200]


def every_route(part: Any) -> list[Route]:
    """All routes of an app or a router, and of the routers within."""
    found: list[Route] = []
    for route in part.routes:
        within = getattr(route, "original_router", None)
        found += every_route(within) if within else [route]
    return found


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
        ("POST", "/spaces/x/anchors/next", (READ,)),
        ("GET", "/spaces/x/translations/y", (INFER,)),
        ("POST", "/translate", (INFER,)),
        ("POST", "/translate/", (ADMIN,)),
        ("POST", "/translate\n", (ADMIN,)),
        ("POST", "/stitch/x/h", (INFER,)),
        ("POST", "/stitch/x/h/more", (ADMIN,)),
        ("POST", "/v1/embeddings", (INFER,)),
        ("POST", "/v2/models/x/infer", (INFER,)),
        ("POST", "/v2/models/x/versions/1/infer", (INFER,)),
        ("GET", "/v2/health/ready", ()),
        ("POST", "/health/live", (ADMIN,)),
        ("BREW", "/nowhere", (ADMIN,)),
    ],
)
def test_one_table_says_what_each_path_needs(
    method: str, path: str, scopes: tuple[Scope, ...]
) -> None:
    assert required_scopes(method, path) == scopes


def test_metrics_are_open_where_the_setting_says_so() -> None:
    assert required_scopes("GET", "/metrics", metrics_public=True) == ()
    assert required_scopes("GET", "/workers", metrics_public=True) == (READ,)


@pytest.mark.parametrize(
    ("method", "path", "status", "lets_in"),
    [
        ("GET", "/spaces", 200, {READ, ADMIN}),
        ("POST", "/translate", 400, {INFER, ADMIN}),
        ("PUT", "/spaces/x", 400, {ADMIN}),
        ("GET", "/info", 200, {READ, INFER, ADMIN}),
        ("GET", "/nowhere", 404, {READ, ADMIN}),
    ],
)
def test_each_scope_opens_its_own(
    house: House, method: str, path: str, status: int, lets_in: set[Scope]
) -> None:
    for scope in SCOPES:
        answer = house.send(method, path, house.keys[scope])
        if scope in lets_in:
            assert answer.status_code == status
            continue
        told = answer.json()
        assert (answer.status_code, told["code"]) == (403, "insufficient-scope")
        assert (
            f"scope {' or '.join(required_scopes(method, path))}, {scope} has {scope}"
            in told["detail"]
        )
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


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
def test_who_has_no_key_is_told_how_to_send_one(house: House, headers: dict[str, str]) -> None:
    raw = {name: value.encode() for name, value in headers.items()}
    answer = httpx.get(f"{house.api.url}/spaces", headers=raw)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith('Bearer realm="stitchwork"')
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert house.send("GET", "/health/live").status_code == 200


def test_other_protocols_hear_it_in_their_own_words(house: House) -> None:
    answer = house.send("POST", "/v1/embeddings", "wrong", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert house.send("GET", "/v1/models", house.keys[INFER]).status_code == 200
    answer = house.send("POST", "/v2/models/x/infer", house.keys[READ], json={})
    assert answer.status_code == 403
    assert "expected a key of scope infer" in answer.json()["error"]


def test_keys_change_without_a_restart(house: House) -> None:
    first = house.add("app-1", READ)
    wait_until("it is let in", lambda: lets_in(house, first))
    second = house.add("app-2", READ)
    wait_until("both are let in", lambda: lets_in(house, second))
    assert lets_in(house, first)
    house.store.remove("app-1")
    wait_until("it is let in no more", lambda: not lets_in(house, first))
    assert lets_in(house, second)


def lets_in(house: House, key: str) -> bool:
    return house.send("GET", "/spaces", key).is_success


def test_a_key_has_its_time(house: House) -> None:
    now = datetime.now(UTC)
    over = house.add("over", READ, expires=now - timedelta(seconds=1))
    going = house.add("going", READ, expires=now + timedelta(hours=1))
    wait_until("it is let in", lambda: lets_in(house, going))
    assert house.send("GET", "/spaces", over).status_code == 401


def test_calibrating_needs_more_than_judging(house: House) -> None:
    path = "/compatibility/nobody/nothing"
    judged = house.send("POST", path, house.keys[INFER], json=SAMPLE)
    assert judged.status_code == 404
    calibrating = {**SAMPLE, "calibrate": True}
    assert house.send("POST", path, house.keys[INFER], json=calibrating).status_code == 403
    assert house.send("POST", path, house.keys[ADMIN], json=calibrating).status_code == 404


def test_the_log_names_the_key_and_never_holds_it(house: House) -> None:
    answer = house.send("GET", "/spaces", house.keys[READ])
    found = answer.headers["x-request-id"]
    wait_until("it is logged", lambda: found in house.api.log())
    line = next(line for line in house.api.log().splitlines() if found in line)
    assert '"key": "read"' in line
    assert house.keys[READ] not in house.api.log()
    held: Any = house.stage.records.hgetall(stored.KEYS)
    for name, key in house.keys.items():
        assert key.encode() not in b"".join(held.values())
        assert stored.digest(key).encode() in held[name.encode()]


def test_a_client_that_leaves_in_mid_body_is_no_error(house: House) -> None:
    host, port = house.api.url.removeprefix("http://").split(":")
    head = (
        "POST /translate HTTP/1.1\r\nHost: x\r\nX-Request-ID: left\r\n"
        f"Authorization: Bearer {house.keys[INFER]}\r\nContent-Length: 1000\r\n\r\nx"
    )
    with closing(socket.create_connection((host, int(port)))) as connection:
        connection.sendall(head.encode())
    wait_until("it is logged", lambda: '"request_id": "left"' in house.api.log())
    (line,) = (line for line in house.api.log().splitlines() if '"request_id": "left"' in line)
    assert '"status": 499' in line
    assert "request failed" not in house.api.log()


def test_openapi_names_the_scheme(house: House) -> None:
    told = house.send("GET", "/openapi.json").json()
    assert told["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert told["paths"]["/translate"]["post"]["security"] == [{"key": ["infer"]}]
    assert told["paths"]["/health/live"]["get"]["security"] == []


def test_rates_are_told_and_kept(house: House) -> None:
    key = house.add("busy", READ, limit="3/minute;100/day")
    wait_until("it is known", lambda: house.send("GET", "/info", key).status_code != 401)
    answers = [house.send("GET", "/info", key) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=3;w=60'
    assert answers[0].headers["ratelimit"].startswith('"requests";r=1;t=')
    spent = answers[-1]
    assert spent.json()["code"] == "rate-limit-exceeded"
    assert (
        "expected at most 3 requests of key busy in 60 seconds (the limit of the key)"
        in spent.json()["detail"]
    )
    assert 1 <= int(spent.headers["retry-after"]) <= 60
    put = house.send("PUT", "/spaces/x", house.keys[ADMIN])
    assert put.headers["ratelimit-policy"] == '"requests";q=1000;w=60'
    assert "ratelimit" not in house.send("GET", "/spaces", house.keys[READ]).headers


def test_rates_hold_for_all_replicas_and_for_each_key(queue_server: RedisClient) -> None:
    replicas = [RateLimiter(queue_server, {READ: "2/hour"}) for _ in range(2)]
    one, other = (stored.new(name, [READ])[1] for name in ("one", "other"))
    found = [rates.hit(one, READ) for rates in (*replicas, replicas[0])]
    assert [standing and standing.allowed for standing in found] == [True, True, False]
    standing = replicas[0].hit(other, READ)
    assert standing
    assert (standing.allowed, standing.remaining) == (True, 1)
    assert replicas[0].hit(one, INFER) is None


def test_a_queue_server_that_is_away_refuses_nobody(tmp_path: Path) -> None:
    metrics = Metrics()
    away = RedisClient(f"unix://{tmp_path}/none", 0.2, QueueUnavailableError)
    rates = RateLimiter(away, {READ: "1/hour"}, metrics)
    assert [rates.hit(None, READ) for _ in range(3)] == [None] * 3
    assert sample_value(metrics, "rate_limit_unchecked_requests_total") == 3


def test_names_are_taken_once(registry_server: RedisClient) -> None:
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
def test_a_wrong_line_of_a_key_file_is_named_but_not_shown(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{line}\n")
    with pytest.raises(InvalidInputError, match="line 3: expected NAME SCOPE") as error:
        stored.read_file(file)
    assert line.split()[-1] not in str(error.value)


def test_a_key_file_guards_a_public_address(tmp_path: Path) -> None:
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
        # Without any key it does not open, for others can reach it.
        file.write_text("")
        wait_until("no key", lambda: send(api, "GET", "/spaces", second).status_code == 401)
        assert send(api, "GET", "/spaces").status_code == 401


def test_serve_on_a_public_address_says_at_once_that_it_needs_a_key(tmp_path: Path) -> None:
    words = ("--host", "0.0.0.0", "--port", "0", "--workers", "0", "--data-dir", str(tmp_path))  # noqa: S104
    command = [sys.executable, "-P", "-m", "stitchwork", "serve", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert (
        "expected an API key, because host 0.0.0.0 can be reached from other machines"
        in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_without_keys_loopback_is_open_and_says_so(http: httpx.Client, spaces: Pair) -> None:
    assert http.get("/spaces").status_code == 200
    assert http.get("/spaces", headers={"Authorization": "Bearer any"}).status_code == 200


def test_what_a_file_declares_holds_without_the_registry(tmp_path: Path) -> None:
    key, record = stored.new("me", [READ])
    file = tmp_path / "keys"
    file.write_text(stored.line(record))
    away = ApiKeyRepository(RedisClient(f"unix://{tmp_path}/none", 0.2, RegistryUnavailableError))
    ring = ApiKeyCache(away, file, stale_seconds=300, must=False)
    assert ring.find(key)
    # It may be one of the registry's.
    with pytest.raises(RegistryUnavailableError):
        ring.find("another")


def test_what_is_known_holds_while_the_registry_is_away() -> None:
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
        knows = stage.api(**env)
        stage.registry.stop(kill=True)

        assert send(knows, "GET", "/info", key).status_code == 200
        assert send(knows, "GET", "/info", "wrong").status_code == 401
        wait_until("it is too old", lambda: send(knows, "GET", "/info", key).status_code == 503)
        assert send(knows, "GET", "/health/live").status_code == 200

        never = stage.api(**env)
        for presented in (key, ""):
            answer = send(never, "GET", "/info", presented)
            assert (answer.status_code, answer.json()["code"]) == (503, "registry-unavailable")

        stage.registry.start()
        for api in (knows, never):
            wait_until("it is let in", partial(succeeds, api, key))
        # A registry that has lost everything opens nothing.
        stage.records.flushall()
        wait_until("it is let in no more", lambda: not succeeds(knows, key))
        assert send(knows, "GET", "/info").status_code == 401


def succeeds(api: Process, key: str) -> bool:
    return send(api, "GET", "/info", key).is_success
