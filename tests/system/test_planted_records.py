"""Records that cannot be read are named and set aside; everything else goes on."""

from collections.abc import Iterator

import httpx
import pytest
import redis

from stitchwork.redis import PREFIX
from stitchwork.registry import api_keys
from stitchwork.registry.stored_records import dump_record
from stitchwork.resources import Scope
from stitchwork.supervisor import ServiceProcess
from tests.conftest import Pair
from tests.integration.api.conftest import register
from tests.support import machine
from tests.support.running_service import running
from tests.support.waiting import wait_until

LATER = b'{"format":99,"id":"x","version":"1"}'
GARBAGE = b"\xff\x00 no record"


@pytest.fixture
def service() -> Iterator[ServiceProcess]:
    with running(workers=0) as process:
        yield process


def test_planted_records_stop_nothing_else(service: ServiceProcess, pair: Pair) -> None:
    assert service.redis_url
    with (
        httpx.Client(base_url=service.url, timeout=machine.deadline(30)) as http,
        redis.Redis.from_url(service.redis_url) as server,
    ):
        register(http, pair)
        for kind, plural in (("anchor-set", "anchor-sets"), ("space", "spaces"), ("head", "heads")):
            table = f"stitchwork:{kind}"
            server.zadd(table, {"later": 0, "garbage": 0, "typed": 0, "pending": 0, b"\xff\xfe": 0})
            server.hset(f"{table}:later", "record", LATER)
            server.hset(f"{table}:garbage", "record", GARBAGE)
            server.hset(f"{table}:pending", "draft", GARBAGE)
            server.set(f"{table}:typed", "not a hash")
            server.zadd("stitchwork:drafts", {f"{kind}:later": 1, f"{kind}:typed": 1})
            body = http.get(f"/{plural}").json()
            assert set(body["unreadable"]) == {"later", "garbage", "typed", "pending", r"\xff\xfe"}
            assert {item["id"] for item in body["items"]} <= {"S", "x", "y", "h"}
            assert body["items"]
            response = http.get(f"/{plural}/later")
            assert (response.status_code, response.json()["code"]) == (409, "incompatible-format")
            assert "format 99 of a later release" in response.json()["detail"]
            assert http.get(f"/{plural}/typed").status_code == 409
            for name in ("garbage", "pending", "typed"):
                assert http.delete(f"/{plural}/{name}").status_code == 204
                assert http.get(f"/{plural}/{name}").status_code == 404
            assert set(http.get(f"/{plural}").json()["unreadable"]) == {"later", r"\xff\xfe"}
        server.zadd("stitchwork:drafts", {b"\xff": 1, "nonsense": 1, "other:x": 1})
        metrics = http.get("/metrics")
        assert metrics.status_code == 200
        assert 'stitchwork_redis_up{server="registry"} 1.0' in metrics.text
        assert 'stitchwork_space_condition_number{space="x"}' in metrics.text
        rows = {"source": "x", "target": "y", "embeddings": pair.x[:2].tolist()}
        assert http.post("/translate", json=rows).status_code == 200
        assert http.get("/v1/models").status_code == 200
        assert http.get("/compatibility/S").status_code in (200, 404, 405)
        anchors = {"anchor_set": "S", "anchors": pair.x_anchors.tolist()}
        assert http.put("/spaces/new", json=anchors).status_code == 201
        assert http.delete("/spaces/new").status_code == 204


def test_planted_keys_leave_other_keys_valid(service: ServiceProcess) -> None:
    assert service.redis_url
    key, record = api_keys.new("good", [Scope.READ])
    with redis.Redis.from_url(service.redis_url) as server:
        for name, data in ((b"\xff", GARBAGE), (b"later", LATER), (b"good", dump_record(record))):
            server.hset(PREFIX + api_keys.KEYS, name, data)
        server.set(PREFIX + api_keys.VERSION, "1")
    headers = {"Authorization": f"Bearer {key}"}

    with httpx.Client(base_url=service.url, timeout=machine.deadline(30)) as http:
        wait_until("keys are required", lambda: http.get("/spaces").status_code == 401)
        assert http.get("/spaces", headers=headers).status_code == 200
