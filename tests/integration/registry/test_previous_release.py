"""What release 0.1.0 stored is listed, served and opened by its keys as it was there."""

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from stitchwork import Stitchwork
from stitchwork.errors import AuthenticationError
from stitchwork.supervisor import ServiceProcess
from tests.support.running_service import running

DATA: Final = Path(__file__).parent / "data"
NAME: Final = "store_0_1_0"
EXPECTED: Final[dict[str, Any]] = json.loads((DATA / f"{NAME}.json").read_text())
KEY: Final[str] = EXPECTED["key"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service without workers on a copy of what 0.1.0 stored."""
    folder = tmp_path_factory.mktemp("store") / "data"
    shutil.copytree(DATA / NAME, folder)
    with running(workers=0, data_dir=folder) as process:
        yield process


@pytest.fixture(scope="module")
def url(service: ServiceProcess) -> str:
    return service.url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Stitchwork]:
    with Stitchwork(url, key=KEY) as opened:
        yield opened


@pytest.fixture(scope="module")
def arrays() -> dict[str, NDArray[np.float32]]:
    with np.load(DATA / f"{NAME}.npz") as stored:
        return {name: stored[name] for name in stored.files}


def layers(head: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers of a head as records have them now, of the widths that they had."""
    parts: list[dict[str, Any]] = []
    for inputs, outputs in pairwise(head["layers"]):
        parts += [{"kind": head["activation"]}] if parts else []
        parts.append({"kind": "linear", "inputs": inputs, "outputs": outputs})
    return parts


@pytest.mark.parametrize("kind", ["anchor-sets", "spaces", "heads"])
def test_lists_of_an_earlier_store_hold_every_record_as_it_was(url: str, kind: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    items = httpx.get(f"{url}/{kind}", headers=headers).raise_for_status().json()["items"]
    assert [item["id"] for item in items] == [item["id"] for item in EXPECTED[kind]]
    for item, expected in zip(items, EXPECTED[kind], strict=True):
        if expected.get("encoder"):
            # Earlier releases ignored the prompts and modules of a model's files.
            ignored = {"prompt": "", "lower_case": False, "modules": []}
            encoder = item["encoder"] | ignored | expected["encoder"]
            assert item["encoder"] == encoder
            expected = expected | {"encoder": encoder}
        if kind == "heads" and "layers" in expected:
            expected = expected | {"layers": layers(expected)}
            expected.pop("activation")
        assert item == item | expected


@pytest.mark.parametrize("bridge", ["exp", "ridge", "ridge-whitened", "irp", "irp-completed"])
@pytest.mark.parametrize("kind", ["text", "point"])
def test_translations_in_an_earlier_store_are_as_they_were(
    client: Stitchwork, arrays: dict[str, NDArray[np.float32]], kind: str, bridge: str
) -> None:
    rows = client.translate(arrays["x"], f"{kind}-x", f"{kind}-y", bridge)
    np.testing.assert_allclose(rows, arrays[f"{kind}/{bridge}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("head", "space"), [("linear", "text-x"), ("mlp", "point-x")])
def test_predictions_in_an_earlier_store_are_as_they_were(
    url: str, arrays: dict[str, NDArray[np.float32]], head: str, space: str
) -> None:
    body = {"space": space, "embeddings": arrays["x"].tolist(), "top": 3}
    headers = {"Authorization": f"Bearer {KEY}"}
    response = httpx.post(f"{url}/classify/{head}", json=body, headers=headers).raise_for_status()
    expected = EXPECTED[f"classify/{head}"]["predictions"]
    for prediction, before in zip(response.json()["predictions"], expected, strict=True):
        assert prediction["label"] == before["label"]
        assert prediction["score"] == pytest.approx(before["score"], rel=1e-4)
        assert prediction["confidence"] == pytest.approx(before["confidence"], rel=1e-4)
        assert prediction["calibrated"] == before["calibrated"] == (head == "linear")


def test_registrations_of_an_earlier_store_are_pending(client: Stitchwork) -> None:
    assert client.get("spaces", "pending-space")["status"] == "pending"
    assert client.get("heads", "pending-head")["status"] == "pending"


def test_key_of_an_earlier_store_is_needed_and_opens(url: str, client: Stitchwork) -> None:
    assert client.records("spaces")
    with Stitchwork(url) as anonymous, pytest.raises(AuthenticationError):
        anonymous.records("spaces")


def test_the_same_declaration_has_the_same_version_as_in_the_earlier_release(
    client: Stitchwork, arrays: dict[str, NDArray[np.float32]]
) -> None:
    before = {item["id"]: item["version"] for item in EXPECTED["anchor-sets"]}
    texts = [f"text {number} about {word}" for number, word in enumerate("abcd" * 10)]
    points = [f"p{i}" for i in range(40)]
    assert client.put_anchor_set("texts", "text", items=texts)["version"] == before["texts"]
    assert client.put_anchor_set("points", ids=points)["version"] == before["points"]


def test_record_of_a_later_release_is_refused_and_everything_else_goes_on(
    service: ServiceProcess, arrays: dict[str, NDArray[np.float32]]
) -> None:
    later = b'{"format":99,"id":"later"}'
    with redis.Redis.from_url(service.redis_url or "") as registry:
        registry.hset("stitchwork:space:later", "record", later)
        registry.zadd("stitchwork:space", {"later": 0})
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=service.url, headers=headers) as http:
        listed = http.get("/spaces").raise_for_status().json()
        assert [item["id"] for item in listed["items"]] == [
            item["id"] for item in EXPECTED["spaces"]
        ]
        assert listed["unreadable"] == ["later"]
        assert "unreadable" not in http.get("/heads").json()
        refusal = http.get("/spaces/later")
        assert (refusal.status_code, refusal.json()["code"]) == (409, "incompatible-format")
        assert "space later has format 99 of a later release" in refusal.json()["detail"]
        body = {"source": "later", "target": "text-y", "embeddings": arrays["x"].tolist()}
        assert http.post("/translate", json=body).status_code == 409
        body["source"] = "text-x"
        assert http.post("/translate", json=body).status_code == 200
        for path in ("/metrics", "/health/live", "/info", "/workers", "/v1/models"):
            assert http.get(path).status_code == 200, path
