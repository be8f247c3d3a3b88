"""Reports on anchors: duplicates, swapped pairs, and which anchors to add next."""

from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from stitchwork.client import Stitchwork
from tests.conftest import Pair, make_pair
from tests.integration.api.test_refusals import check

SWAPPED = (11, 40, 77, 120, 163, 199)


@pytest.fixture(scope="module")
def swapped(http: httpx.Client) -> Pair:
    """Spaces ax, ay and az on a set with ids; six anchors of az are swapped."""
    pair = make_pair(k=200)
    ids = [f"a{i}" for i in range(200)]
    assert http.put("/anchor-sets/A", json={"ids": ids}).status_code == 201
    moved = pair.y_anchors.copy()
    moved[list(SWAPPED)] = np.roll(moved[list(SWAPPED)], 1, axis=0)
    for name, rows in (("ax", pair.x_anchors), ("ay", pair.y_anchors), ("az", moved)):
        response = http.put(f"/spaces/{name}", json={"anchor_set": "A", "anchors": rows.tolist()})
        assert response.status_code == 201, response.text
    return pair


def report(http: httpx.Client, space: str, **query: str) -> dict[str, Any]:
    response = http.get(f"/spaces/{space}/anchors", params=query)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def test_report_of_swapped_anchors_names_their_best_match(
    http: httpx.Client, swapped: Pair
) -> None:
    result = report(http, "ax", target="az")
    by_anchor = {one["anchor"]: one for one in result["misaligned"]}
    assert set(by_anchor) == {f"a{i}" for i in SWAPPED}
    for i, place in zip(SWAPPED, (*SWAPPED[1:], SWAPPED[0]), strict=True):
        one = by_anchor[f"a{i}"]
        assert one["fits"] == f"a{place}"
        assert one["rank"] > 0
        assert 0 < one["probability"] <= 1
    assert result["target"]["id"] == "az"
    assert report(http, "ax", target="ay")["misaligned"] == []


def test_report_without_target_is_of_the_space_alone(http: httpx.Client, swapped: Pair) -> None:
    result = report(http, "ax")
    assert result["target"] is None
    assert result["misaligned"] is None
    assert (result["anchors"], result["used"], result["compared"]) == (200, 200, 200)
    curve = result["learning_curve"]
    assert curve["enough"], curve["reason"]
    assert curve["points"][-1]["anchors"] == 160
    assert curve["points"][-1]["similarity"] > curve["points"][0]["similarity"]
    assert report(http, "ax") == result


def test_duplicates_are_named_at_registration_and_in_the_report(http: httpx.Client) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 20)).astype(np.float32)
    rows[7] = rows[3]
    rows[9] = rows[4] + 0.02 * rng.normal(size=20)
    ids = [f"n{i}" for i in range(30)]
    body = {"anchor_set": "AD", "anchors": rows.tolist(), "ids": ids}
    exact, near, created = http.put("/spaces/ad", json=body).json()["warnings"]
    assert "anchor set AD was not declared" in created
    assert exact.startswith("1 anchors repeat others exactly")
    assert exact.endswith(": 'n7' as 'n3'")
    assert near == "1 anchors all but repeat others and add no direction: 'n9' as 'n4'"
    result = report(http, "ad")
    assert result["duplicates"] == {"exact": [["n3", "n7"]], "near": [["n4", "n9"]]}
    assert [one["anchor"] for one in result["drop"][:2]] == ["n7", "n9"]


def test_anchors_without_ids_are_named_by_index(http: httpx.Client) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 20))
    rows[7] = rows[3]
    space = http.put("/spaces/ai", json={"anchor_set": "AI", "anchors": rows.tolist()}).json()
    assert space["warnings"][0].endswith(": 7 as 3")
    assert report(http, "ai")["duplicates"]["exact"] == [[3, 7]]


def test_anchor_set_with_repeated_items_warns(http: httpx.Client) -> None:
    body = {"modality": "text", "items": ["a", "b", "a"], "ids": ["p", "q", "r"]}
    response = http.put("/anchor-sets/AT", json=body)
    assert response.status_code == 201
    assert response.json()["warnings"][0].endswith("'r' as 'p'")
    assert http.put("/anchor-sets/AT", json=body).json()["outcome"] == "same"
    other = {"modality": "text", "items": ["ab", "c", "abc"]}
    assert http.put("/anchor-sets/AU", json=other).json()["warnings"] == []


def test_next_anchors_are_far_from_all_anchors(http: httpx.Client, swapped: Pair) -> None:
    far = swapped.x_anchors.mean(axis=0) - (swapped.x_anchors[0] - swapped.x_anchors.mean(axis=0))
    pool = np.vstack([swapped.x_anchors[:5], far]).astype(np.float32)
    query = {"count": "3"}
    response = http.post(
        "/spaces/ax/anchors/next",
        params=query,
        content=save({"embeddings": pool}),
        headers={"Content-Type": "application/vnd.safetensors"},
    )
    assert response.status_code == 200, response.text
    result = response.json()
    assert [step["index"] for step in result["next"]] == [5]
    assert result["next"][0]["distance"] > 0.01
    assert (result["space"]["id"], result["anchors"], result["used"]) == ("ax", 200, 200)
    plain = http.post("/spaces/ax/anchors/next", json={"count": 3, "embeddings": pool.tolist()})
    assert plain.json()["next"] == result["next"]


def test_client_returns_the_same_report(http: httpx.Client, url: str, swapped: Pair) -> None:
    with Stitchwork(url) as client:
        assert client.anchor_report("ax", "az") == report(http, "ax", target="az")
        assert client.anchor_report("ax", "az", "ridge")["bridge"] == "ridge"
        steps = client.next_anchors("ax", swapped.x, count=4)
    distances = [step["distance"] for step in steps]
    assert len(distances) == 4
    assert distances == sorted(distances, reverse=True)


def test_invalid_requests_return_errors(http: httpx.Client, swapped: Pair, spaces: Pair) -> None:
    check(http.get("/spaces/nobody/anchors"), 404)
    check(http.get("/spaces/ax/anchors", params={"target": "nobody"}), 404)
    foreign = http.get("/spaces/ax/anchors", params={"target": "y"})
    check(foreign, 409, detail="same anchor set")
    assert foreign.json()["code"] == "anchor-set-mismatch"
    check(http.get("/spaces/ax/anchors", params={"target": "a b"}), 422, "/target")
    check(http.get("/spaces/ax/anchors", params={"bridge": "rope"}), 422)
    none = http.get("/spaces/ax/anchors", params={"target": "ay", "bridge": "none"})
    check(none, 422, detail="wide")
    path = "/spaces/ax/anchors/next"
    check(http.post(path, json={"embeddings": [[1.0, 2.0]]}), 422, "/embeddings", "24 numbers")
    check(http.post(path, json={"count": 0, "embeddings": [[0.5] * 24]}), 422, "/count")
    check(http.post(path, json={"count": 2}), 422, "/embeddings")
    check(http.post("/spaces/nobody/anchors/next", json={"embeddings": [[1.0]]}), 404)
