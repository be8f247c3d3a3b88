"""An API behind proxies: prefixes, forwarded addresses, other origins, idle connections."""

import json
import socket
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from stitchwork.client import Stitchwork
from tests.support import machine
from tests.support.cluster import Cluster, Process
from tests.support.servers import VALKEY_9, server_binary
from tests.support.waiting import wait_until

KEY: Final = "k" * 32
PREFIX: Final = "/models/stitch"
ORIGIN: Final = "https://app.example.com"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(
        server_binary(VALKEY_9), STITCHWORK_LOG_LEVEL="debug", STITCHWORK_ADMIN_KEY=KEY
    ) as servers:
        yield servers


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Process:
    return cluster.api(
        STITCHWORK_ROOT_PATH=f"{PREFIX}/",
        STITCHWORK_TRUSTED_PROXIES="127.0.0.0/8, 10.1.0.0/16",
        STITCHWORK_CORS_ORIGINS=ORIGIN,
        STITCHWORK_KEEP_ALIVE_SECONDS="1",
    )


@pytest.fixture(scope="module")
def http(api: Process) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=machine.deadline(30)) as client:
        yield client


BEARER: Final = {"Authorization": f"Bearer {KEY}"}


def requests_in(log: str) -> dict[str, dict[str, Any]]:
    """The records of requests by their ids."""
    records = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return {r["request_id"]: r for r in records if r["message"] == "request completed"}


def record(api: Process, request_id: str) -> dict[str, Any]:
    """The record of a request, which is written a moment after its response."""
    wait_until("the request is logged", lambda: request_id in requests_in(api.log()))
    return requests_in(api.log())[request_id]


def client_in_log(api: Process, http: httpx.Client, request_id: str, **forwarded: str) -> str:
    headers = {"X-Request-ID": request_id, **BEARER}
    headers |= {name.replace("_", "-"): value for name, value in forwarded.items()}
    assert http.get("/info", headers=headers).status_code == 200
    return str(record(api, request_id)["client"])


def test_client_of_a_trusted_proxy_is_the_address_that_it_forwards(
    api: Process, http: httpx.Client
) -> None:
    assert client_in_log(api, http, "direct") == "127.0.0.1"
    assert client_in_log(api, http, "one", X_Forwarded_For="203.0.113.9") == "203.0.113.9"
    chain = "203.0.113.9, 10.1.2.3"
    assert client_in_log(api, http, "two", X_Forwarded_For=chain) == "203.0.113.9"
    # What the client itself wrote stands before the first address that no trusted proxy has.
    chain = "198.51.100.1, 203.0.113.9, 10.1.2.3"
    assert client_in_log(api, http, "three", X_Forwarded_For=chain) == "203.0.113.9"


def test_address_that_others_forward_is_ignored(cluster: Cluster) -> None:
    api = cluster.api(STITCHWORK_TRUSTED_PROXIES="")
    with httpx.Client(base_url=api.url, timeout=machine.deadline(30)) as http:
        assert client_in_log(api, http, "no", X_Forwarded_For="203.0.113.9") == "127.0.0.1"


def test_path_is_served_with_its_prefix_and_without(http: httpx.Client) -> None:
    plain, prefixed = (http.get(f"{root}/info", headers=BEARER) for root in ("", PREFIX))
    assert plain.status_code == prefixed.status_code == 200
    assert plain.json() == prefixed.json()
    assert http.get(f"{PREFIX}/health/live?x=1").status_code == 200
    # A key is required under either path, and a longer name is another path.
    assert http.get(f"{PREFIX}/info").status_code == 401
    assert http.get(f"{PREFIX}s/info", headers=BEARER).status_code == 404
    assert http.get(f"{PREFIX}{PREFIX}/info", headers=BEARER).status_code == 404


def test_prefix_without_a_slash_leads_to_the_folder_of_the_page(http: httpx.Client) -> None:
    for query in ("", "?space=x"):
        response = http.get(f"{PREFIX}{query}")
        assert response.status_code == 307
        assert response.headers["Location"] == f"stitch/{query}"
        assert response.next_request
        assert response.next_request.url.raw_path.decode() == f"{PREFIX}/{query}"
    assert http.get(f"{PREFIX}/").status_code == 200


def test_path_with_another_slash_is_unknown_and_leads_to_no_host(http: httpx.Client) -> None:
    for path in ("/spaces/", "/docs/", f"{PREFIX}/spaces/"):
        response = http.get(path, headers=BEARER | {"Host": "other.example"})
        assert (response.status_code, response.json()["code"]) == (404, "unknown-path")
        assert "location" not in response.headers


def test_document_and_pages_name_the_prefix(http: httpx.Client) -> None:
    document = http.get(f"{PREFIX}/openapi.json").json()
    assert document["servers"] == [{"url": PREFIX}]
    page = http.get(f"{PREFIX}/docs").text
    # Relative to the page, whose path the browser knows.
    assert "url: 'openapi.json'" in page
    assert 'src="docs/assets/swagger-ui-bundle.js"' in page


def test_client_uses_an_address_with_a_prefix(api: Process) -> None:
    with Stitchwork(f"{api.url}{PREFIX}", key=KEY) as client:
        assert client.info()["name"] == "stitchwork"


def test_prefix_that_hides_a_path_is_refused(cluster: Cluster) -> None:
    started = cluster.start("api", STITCHWORK_ROOT_PATH="/v1")
    assert started.process.wait(machine.deadline(60)) == 1
    assert "expected a prefix that no path of the API has, got /v1" in started.log()


@pytest.mark.parametrize("path", ["/info", "/translate"])
def test_page_of_an_allowed_origin_may_read_answers(http: httpx.Client, path: str) -> None:
    method = "GET" if path == "/info" else "POST"
    allowed = http.options(
        path,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,content-type,x-api-key",
        },
    )
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert method in allowed.headers["Access-Control-Allow-Methods"]
    assert "x-api-key" in allowed.headers["Access-Control-Allow-Headers"]
    # Errors are readable as well, and keys are never sent by the browser itself.
    answer = http.request(method, path, headers={"Origin": ORIGIN, **BEARER})
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert answer.headers["Access-Control-Expose-Headers"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_page_of_another_origin_may_not_read_answers(http: httpx.Client) -> None:
    origin = {"Origin": "https://evil.example.com"}
    assert "Access-Control-Allow-Origin" not in http.get("/info", headers=BEARER | origin).headers
    request = {"Access-Control-Request-Method": "GET", **origin}
    assert http.options("/info", headers=request).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("X-API-Key", KEY)], 200),
        ([("x-api-key", KEY)], 200),
        ([("X-API-Key", KEY), ("Authorization", f"Bearer {KEY}")], 200),
        ([("X-API-Key", KEY), ("Authorization", "Basic abc")], 200),
        ([("X-API-Key", "x" * 32)], 401),
        ([("X-API-Key", KEY), ("Authorization", f"Bearer {'x' * 32}")], 401),
        ([("X-API-Key", KEY), ("X-API-Key", KEY)], 401),
        ([("X-API-Key", "")], 401),
    ],
)
def test_key_may_come_in_a_header_of_its_own(
    http: httpx.Client, headers: list[tuple[str, str]], status: int
) -> None:
    answer = http.get("/info", headers=headers)
    assert answer.status_code == status
    assert KEY not in answer.text


def test_idle_connection_is_closed_after_the_setting(api: Process) -> None:
    address = httpx.URL(api.url)
    with socket.create_connection((address.host, address.port or 0)) as connection:
        connection.settimeout(machine.deadline(30))
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        # It ends with the end of the connection, not with that of the response.
        while part := connection.recv(65_536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_health_checks_are_logged_at_debug_only(api: Process, http: httpx.Client) -> None:
    http.get("/health/live", headers={"X-Request-ID": "probe"})
    http.get("/info", headers={"X-Request-ID": "other"})
    assert record(api, "probe")["level"] == "DEBUG"
    assert record(api, "other")["level"] == "INFO"
