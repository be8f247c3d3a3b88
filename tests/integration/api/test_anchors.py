"""Reports on anchors: duplicates, swapped pairs, and which anchors to add next."""

from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from stitchwork.client import Stitchwork
from tests.conftest import Pair, make_pair
from tests.integration.api.test_refusals import check
from tests.support.reports import get_report

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
    response = get_report(http, f"/spaces/{space}/anchors", query)
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
    exact, near, few, created = http.put("/spaces/ad", json=body).json()["warnings"]
    assert "anchor set AD was not declared" in created
    assert few.startswith("30 anchors are few: ")
    assert exact.startswith("1 anchor repeats another exactly; it shifts")
    assert exact.endswith(": 'n7' as 'n3'")
    assert near == "1 anchor all but repeats another and adds no direction: 'n9' as 'n4'"
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


def test_rows_are_chosen_from_a_pool_with_and_without_a_space(
    http: httpx.Client, swapped: Pair
) -> None:
    mean = swapped.x_anchors.mean(axis=0)
    far = mean - (swapped.x_anchors[0] - mean)
    pool = np.vstack([swapped.x_anchors[:5], far]).astype(np.float32)
    response = http.post(
        "/anchors/choose",
        params={"count": "3", "space": "ax"},
        content=save({"embeddings": pool}),
        headers={"Content-Type": "application/vnd.safetensors"},
    )
    assert response.status_code == 200, response.text
    result = response.json()
    assert [step["index"] for step in result["chosen"]] == [5]
    assert result["chosen"][0]["distance"] > 0.01
    assert (result["space"]["id"], result["pool"]) == ("ax", 6)
    assert response.headers["stitchwork-space"].startswith("ax@")
    body = {"count": 3, "space": "ax", "embeddings": pool.tolist()}
    plain = http.post("/anchors/choose", json=body)
    assert plain.json()["chosen"] == result["chosen"]
    alone = http.post("/anchors/choose", json={"count": 6, "embeddings": pool.tolist()}).json()
    assert alone["space"] is None
    assert sorted(step["index"] for step in alone["chosen"]) == [0, 1, 2, 3, 4, 5]
    assert alone["chosen"][0]["distance"] == 2


def test_nearest_anchors_have_the_largest_cosines_from_the_mean(
    http: httpx.Client, swapped: Pair
) -> None:
    rows = swapped.x[:3]
    anchors = swapped.x_anchors.astype(np.float64)
    mean = anchors.mean(axis=0)
    centred, centred_anchors = rows - mean, anchors - mean
    norms = np.linalg.norm(centred, axis=1)[:, None] * np.linalg.norm(centred_anchors, axis=1)
    cosines = centred @ centred_anchors.T / norms
    path = "/spaces/ax/anchors/nearest"
    response = http.post(path, json={"embeddings": rows.tolist(), "count": 4})
    assert response.status_code == 200, response.text
    assert response.headers["stitchwork-space"].startswith("ax@")
    result = response.json()
    assert result["space"]["id"] == "ax"
    for row, nearest in zip(cosines, result["nearest"], strict=True):
        order = np.argsort(-row)[:4]
        assert [anchor["anchor"] for anchor in nearest] == [f"a{i}" for i in order]
        assert [anchor["cosine"] for anchor in nearest] == pytest.approx(row[order], abs=1e-4)
        assert {anchor["text"] for anchor in nearest} == {None}
    as_array = http.post(
        path,
        params={"count": "4"},
        content=save({"embeddings": rows}),
        headers={"Content-Type": "application/vnd.safetensors"},
    )
    assert as_array.json() == result
    assert len(http.post(path, json={"embeddings": rows.tolist()}).json()["nearest"][0]) == 5


def test_row_at_the_mean_of_the_anchors_has_no_nearest_ones(
    http: httpx.Client, swapped: Pair
) -> None:
    mean = swapped.x_anchors.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows = np.stack([swapped.x[0], mean]).tolist()
    result = http.post("/spaces/ax/anchors/nearest", json={"embeddings": rows}).json()
    assert [len(anchors) for anchors in result["nearest"]] == [5, 0]
    assert result["undefined"] == [1]
    body = {"source": "ax", "target": "ay", "embeddings": rows}
    assert http.post("/translate", json=body).json()["undefined"] == [1]


def test_nearest_anchors_have_the_beginnings_of_texts(http: httpx.Client) -> None:
    texts = ["a" * 300, "b", "c"]
    body: dict[str, Any] = {"modality": "text", "items": texts}
    assert http.put("/anchor-sets/AN", json=body).status_code == 201
    anchors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert http.put("/spaces/an", json={"anchor_set": "AN", "anchors": anchors}).is_success
    body = {"embeddings": [[0.9, 0.5, 0.1]], "count": 2}
    (nearest,) = http.post("/spaces/an/anchors/nearest", json=body).json()["nearest"]
    assert [(anchor["anchor"], anchor["text"]) for anchor in nearest] == [(0, "a" * 200), (1, "b")]


def test_client_returns_the_same_report(http: httpx.Client, url: str, swapped: Pair) -> None:
    with Stitchwork(url) as client:
        assert client.anchor_report("ax", "az") == report(http, "ax", target="az")
        assert client.anchor_report("ax", "az", "ridge")["bridge"] == "ridge"
        chosen = client.choose_anchors(swapped.x, 4, "ax")
        assert client.choose_anchors(swapped.x, 2, "ax") == chosen[:2]
        assert client.choose_anchors(swapped.x, 4) != chosen
    assert len(set(chosen)) == 4


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
    path = "/anchors/choose"
    narrow = {"count": 1, "space": "ax", "embeddings": [[1.0, 2.0]]}
    check(http.post(path, json=narrow), 422, "/embeddings", "24 numbers")
    check(http.post(path, json={"count": 0, "embeddings": [[0.5] * 24]}), 422, "/count")
    check(http.post(path, json={"embeddings": [[0.5] * 24]}), 422, "/count")
    check(http.post(path, json={"count": 2}), 422, "/embeddings")
    nobody = {"count": 1, "space": "nobody", "embeddings": [[1.0]]}
    check(http.post(path, json=nobody), 404)
    path = "/spaces/ax/anchors/nearest"
    check(http.post(path, json={"embeddings": [[1.0, 2.0]]}), 422, "/embeddings", "24 numbers")
    check(http.post(path, json={"embeddings": [[0.5] * 24], "count": 101}), 422, "/count")
    check(http.post(path, json={"embeddings": [[0.5] * 24] * 2049}), 413, "/embeddings", "2048")
    check(http.post("/spaces/nobody/anchors/nearest", json={"embeddings": [[1.0]]}), 404)
