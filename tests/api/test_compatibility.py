"""`/compatibility`: verdicts that hold, with the evidence behind them."""

import time
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.test_refusals import check
from tests.conftest import Pair, make_pair


@pytest.fixture(scope="module")
def set_of_three(http: httpx.Client) -> Pair:
    """Spaces px and py that see the same, and pz with the anchors of py in another order."""
    pair = make_pair(k=300, n=400)
    order = np.random.default_rng(5).permutation(300)
    for name, anchors in (
        ("px", pair.x_anchors),
        ("py", pair.y_anchors),
        ("pz", pair.y_anchors[order]),
    ):
        told = http.put(f"/spaces/{name}", json={"anchor_set": "P", "anchors": anchors.tolist()})
        assert told.status_code == 201, told.text
    return pair


def matrix(http: httpx.Client, **query: str) -> dict[str, Any]:
    answer = http.get("/compatibility", params=query)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_the_matrix_tells_parallel_spaces_from_shuffled_ones(
    http: httpx.Client, set_of_three: Pair
) -> None:
    told = matrix(http, anchor_set="P")
    pairs = {(p["source"], p["target"]): p for p in told["pairs"]}
    assert len(pairs) == 6
    good, bad = pairs["px", "py"], pairs["px", "pz"]
    assert (good["verdict"], bad["verdict"]) == ("good", "poor")
    assert good["similarity"] > 0.9
    assert good["recall_at_1"] > 0.9
    assert abs(bad["similarity"]) < 0.2
    assert bad["recall_at_1"] < 0.1
    assert "the same anchors" in bad["reason"]
    assert good["agreement"] == pytest.approx(pairs["py", "px"]["agreement"])
    assert abs(bad["agreement"]) < 0.1
    known = http.get("/spaces/py").json()
    (shown,) = [space for space in told["spaces"] if space["id"] == "py"]
    assert shown["version"] == known["version"]
    assert shown["condition_number"] == known["condition_number"]
    assert (told["anchors"], told["bridge"]) == (300, "ridge")


def test_the_matrix_is_computed_once_and_anew_for_a_new_version(http: httpx.Client) -> None:
    pair = make_pair(k=400, dims=(180, 200), latent=60)
    for name, anchors in (("qx", pair.x_anchors), ("qy", pair.y_anchors)):
        http.put(f"/spaces/{name}", json={"anchor_set": "Q", "anchors": anchors.tolist()})
    began = time.perf_counter()
    first = matrix(http, anchor_set="Q")
    middle = time.perf_counter()
    again = matrix(http, anchor_set="Q")
    assert time.perf_counter() - middle < 0.5 * (middle - began)
    assert again == first
    noise = np.random.default_rng(0).normal(size=(400, 200)).tolist()
    assert http.put("/spaces/qy", json={"anchor_set": "Q", "anchors": noise}).status_code == 200
    anew = matrix(http, anchor_set="Q")
    assert {p["verdict"] for p in first["pairs"]} == {"good"}
    assert {p["verdict"] for p in anew["pairs"]} == {"poor"}


def test_the_matrix_of_few_spaces_or_anchors(http: httpx.Client) -> None:
    http.put("/anchor-sets/R", json={"size": 8})
    assert matrix(http, anchor_set="R")["pairs"] == []
    rows = np.random.default_rng(0).normal(size=(8, 3))
    http.put("/spaces/r1", json={"anchor_set": "R", "anchors": rows.tolist()})
    assert matrix(http, anchor_set="R")["pairs"] == []
    http.put("/spaces/r2", json={"anchor_set": "R", "anchors": (2 * rows).tolist()})
    for pair in matrix(http, anchor_set="R")["pairs"]:
        assert (pair["similarity"], pair["recall_at_1"], pair["verdict"]) == (None, None, "poor")
        assert "8 anchors are too few" in pair["reason"]


def test_which_spaces_are_compared(http: httpx.Client, set_of_three: Pair, spaces: Pair) -> None:
    two = matrix(http, anchor_set="P", spaces="pz,px,pz", bridge="none")
    assert [(p["source"], p["target"]) for p in two["pairs"]] == [("pz", "px"), ("px", "pz")]
    assert two["pairs"][0]["similarity"] is None, "24 and 32 wide"
    check(http.get("/compatibility", params={"anchor_set": "nowhere"}), 404)
    check(http.get("/compatibility"), 422, "/anchor_set")
    check(http.get("/compatibility", params={"anchor_set": "P", "bridge": "best"}), 422, "/bridge")
    for names, status in (("px,nowhere", 404), ("px,x", 409), ("px,a b", 422), ("", 422)):
        check(http.get("/compatibility", params={"anchor_set": "P", "spaces": names}), status)
    many = ",".join(f"s{i}" for i in range(17))
    check(
        http.get("/compatibility", params={"anchor_set": "P", "spaces": many}),
        422,
        "/spaces",
        "at most 16 spaces",
    )
