"""Registration: versions, conditions, and the checks of anchor sets."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import Pair, make_pair
from tests.integration.api.test_refusals import check


def anchors(seed: int = 0, k: int = 6, d: int = 3) -> list[list[float]]:
    rows: list[list[float]] = np.random.default_rng(seed).normal(size=(k, d)).tolist()
    return rows


def test_put_of_same_content_is_idempotent_and_of_other_content_replaces(
    http: httpx.Client,
) -> None:
    body = {"anchor_set": "P", "anchors": anchors()}
    first, again = (http.put("/spaces/p", json=body) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["etag"] == again.headers["etag"] == f'"{first.json()["version"]}"'
    changed = http.put("/spaces/p", json={**body, "anchors": anchors(1)})
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]
    etags = {first.headers["etag"], changed.headers["etag"]}
    for parameters in (
        {"ridge": {"shrinkage": 0.5}},
        {"irp": {"delta": 0.5, "omega": 2}},
        {"exp": {"whitening": 0.25, "landmarks": 64}},
    ):
        response = http.put("/spaces/p", json={**body, **parameters})
        assert response.headers["etag"] not in etags
        etags.add(response.headers["etag"])
    assert http.get("/spaces/p").json()["parameters"] == {
        "shrinkage": None,
        "delta": 0.8,
        "omega": 8,
        "whitening": 0.25,
        "landmarks": 64,
    }
    refused = http.put("/spaces/p", json={**body, "exp": {"whitening": 2}})
    check(refused, 422, "/exp/whitening", "got 2")


def test_conditional_requests_check_the_current_version(http: httpx.Client) -> None:
    body = {"anchor_set": "C", "anchors": anchors()}

    def put(content: dict[str, Any], **headers: str) -> httpx.Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.put("/spaces/c", json=content, headers=fields)

    check(put(body, If_Match='"x"'), 412)
    assert http.get("/anchor-sets/C").status_code == 404, "a refused PUT leaves nothing behind"
    assert put(body, If_None_Match="*").status_code == 201
    check(put(body, If_None_Match="*"), 412)
    tag = http.get("/spaces/c").headers["etag"]
    other = {**body, "anchors": anchors(1)}
    check(put(other, If_Match=""), 412)
    check(put(other, If_Match=f"W/{tag}"), 412)
    assert put(other, If_Match=f'"zz", {tag}').status_code == 200
    now = http.get("/spaces/c").headers["etag"]
    assert http.get("/spaces/c", headers={"If-None-Match": now}).status_code == 304
    check(http.delete("/spaces/c", headers={"If-Match": tag}), 412)
    assert http.delete("/spaces/c", headers={"If-Match": now}).status_code == 204
    check(http.get("/spaces/c"), 404)


def test_concurrent_puts_create_one_space(http: httpx.Client) -> None:
    body = {"anchor_set": "M", "anchors": anchors()}
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: http.put("/spaces/m", json=body).status_code, range(16)))
    assert sorted(statuses) == [200] * 15 + [201]


def test_first_space_creates_its_anchor_set_and_the_others_must_match(http: httpx.Client) -> None:
    assert http.put("/spaces/s1", json={"anchor_set": "B", "anchors": anchors()}).is_success
    assert http.get("/anchor-sets/B").json()["size"] == 6
    wrong = http.put("/spaces/s2", json={"anchor_set": "B", "anchors": anchors(k=5)})
    check(wrong, 409, "/anchors", "has 6 anchors, got 5 rows")
    assert wrong.json()["code"] == "anchor-set-mismatch"
    check(http.put("/anchor-sets/B", json={"size": 7}), 409, detail="never change")
    assert http.put("/anchor-sets/B", json={"size": 6}).status_code == 200
    check(http.delete("/anchor-sets/B"), 409, detail="space:s1")


def test_translation_between_anchor_sets_is_conflict(http: httpx.Client) -> None:
    for name, set_ in (("o1", "O1"), ("o2", "O2")):
        http.put(f"/spaces/{name}", json={"anchor_set": set_, "anchors": anchors()})
    body = {"source": "o1", "target": "o2", "embeddings": [[1, 2, 3]]}
    response = http.post("/translate", json=body)
    check(response, 409, detail="same anchor set")
    assert response.json()["code"] == "anchor-set-mismatch"


def test_anchors_with_ids_are_put_in_the_order_of_the_set(http: httpx.Client) -> None:
    names = [f"n{i}" for i in range(6)]
    http.put("/anchor-sets/N", json={"ids": names})
    rows = anchors()
    ordered = http.put("/spaces/n1", json={"anchor_set": "N", "anchors": rows, "ids": names})
    reversed_ = http.put(
        "/spaces/n2", json={"anchor_set": "N", "anchors": rows[::-1], "ids": names[::-1]}
    )
    assert ordered.json()["version"] == reversed_.json()["version"], "the same content"
    shuffled = [names[i] for i in (1, 0, 3, 2, 5, 4)]
    other = http.put("/spaces/n2", json={"anchor_set": "N", "anchors": rows, "ids": shuffled})
    assert other.json()["version"] != ordered.json()["version"], "the same rows, other anchors"
    response = http.post(
        "/translate", json={"source": "n1", "target": "n2", "embeddings": rows[:1]}
    )
    assert np.abs(np.array(response.json()["embeddings"]) - rows[:1]).max() > 1e-3
    wrong = http.put(
        "/spaces/n3", json={"anchor_set": "N", "anchors": rows, "ids": [*names[:5], "who"]}
    )
    check(wrong, 422, "/ids", "missing 'n5'; unknown 'who'")


def test_duplicate_id_among_many_is_named(http: httpx.Client) -> None:
    names = [str(i) for i in range(99_999)]
    response = http.put("/anchor-sets/W", json={"ids": [*names, names[-1]]})
    problem = response.json()
    assert (response.status_code, problem["pointer"]) == (422, "/ids/99999")
    assert "'99998' occurs twice" in problem["detail"]


def test_shuffled_anchors_are_warned_of(http: httpx.Client) -> None:
    pair = make_pair(k=300)
    order = np.random.default_rng(5).permutation(300)
    bodies = {
        "w1": pair.x_anchors,
        "w2": pair.y_anchors,
        "w3": pair.y_anchors[order],
    }
    records = [
        http.put(f"/spaces/{name}", json={"anchor_set": "W", "anchors": rows.tolist()}).json()
        for name, rows in bodies.items()
    ]
    assert records[1]["agreement"] > 0.5
    assert not records[1]["warnings"]
    assert abs(records[2]["agreement"]) < 0.1
    assert "not the same anchors" in records[2]["warnings"][0]


def test_space_with_heads_cannot_be_deleted_or_change_its_width(http: httpx.Client) -> None:
    body = {"anchor_set": "K", "anchors": anchors()}
    http.put("/spaces/k", json=body)
    head = {"space": "k", "weight": [[1, 0, 0], [0, 1, 0]], "labels": ["a", "b"]}
    assert http.put("/heads/k", json=head).status_code == 201
    check(http.delete("/spaces/k"), 409, detail="head:k")
    wider = http.put("/spaces/k", json={"anchor_set": "K2", "anchors": anchors(d=4)})
    check(wider, 409, detail="width")
    assert http.get("/anchor-sets/K2").status_code == 404
    assert http.put("/spaces/k", json={**body, "anchors": anchors(3)}).status_code == 200
    assert http.post("/classify/k", json={"space": "k", "embeddings": [[5, 0, 0]]}).is_success
    assert http.delete("/heads/k").status_code == 204
    assert http.delete("/spaces/k").status_code == 204
    assert http.delete("/anchor-sets/K").status_code == 204


@pytest.mark.parametrize(
    ("rows", "status"),
    [([[1.0, 2.0]] * 6, 422), ([[1.0, 2.0]], 422), ([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]], 201)],
)
def test_degenerate_anchors_are_refused_or_have_a_low_rank(
    http: httpx.Client, rows: list[list[float]], status: int
) -> None:
    response = http.put(
        f"/spaces/g{len(rows)}", json={"anchor_set": f"G{len(rows)}", "anchors": rows}
    )
    assert response.status_code == status
    if status == 201:
        assert response.json()["rank"] == 1
        assert np.isfinite(response.json()["condition_number"])


def test_few_distinct_anchors_are_warned_of(http: httpx.Client) -> None:
    two = np.random.default_rng(0).normal(size=(2, 5))
    body = {"anchor_set": "F", "anchors": two[[0, 1, 1, 0, 1, 1, 0, 0]].tolist()}
    response = http.put("/spaces/few-distinct", json=body)
    assert response.status_code == 201
    assert response.json()["warnings"][0] == "only 2 of 8 anchors are distinct"
    http.delete("/spaces/few-distinct")
    http.delete("/anchor-sets/F")


@pytest.mark.parametrize(
    ("length", "unit", "expected"),
    [(1, None, True), (1, False, False), (3, None, False), (3, True, True)],
)
def test_translations_into_a_unit_space_have_unit_length(
    http: httpx.Client, spaces: Pair, length: int, unit: bool | None, expected: bool
) -> None:
    anchors = spaces.y_anchors / np.linalg.norm(spaces.y_anchors, axis=1, keepdims=True) * length
    body = {"anchor_set": "S", "anchors": anchors.tolist(), "unit": unit}
    registered = http.put("/spaces/lengths", json=body)
    assert registered.status_code == 201
    assert registered.json()["unit"] is expected
    conflicting = [text for text in registered.json()["warnings"] if "have unit length" in text]
    assert len(conflicting) == (length == 3 and unit is True)
    body = {"source": "x", "target": "lengths", "embeddings": spaces.x.tolist()}
    rows = np.array(http.post("/translate", json=body).json()["embeddings"])
    lengths = np.linalg.norm(rows, axis=1)
    assert (np.abs(lengths - 1) < 1e-3).all() == expected
    assert http.delete("/spaces/lengths").status_code == 204


def test_unit_is_part_of_a_spaces_version(http: httpx.Client, spaces: Pair) -> None:
    anchors = spaces.y_anchors / np.linalg.norm(spaces.y_anchors, axis=1, keepdims=True)

    def put(**fields: Any) -> tuple[str, str]:
        body = {"anchor_set": "S", "anchors": anchors.tolist(), **fields}
        record = http.put("/spaces/unit", json=body).json()
        return record["outcome"], record["version"]

    _, first = put()
    assert put(unit=True) == ("same", first)
    outcome, second = put(unit=False)
    assert (outcome, second == first) == ("replaced", False)
    assert http.delete("/spaces/unit").status_code == 204


def test_pages_list_all_spaces_in_order(http: httpx.Client, spaces: Pair) -> None:
    ids: list[str] = []
    cursor = None
    while True:
        query = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = http.get("/spaces", params=query).json()
        ids += [record["id"] for record in page["items"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert ids == sorted(set(ids))
    assert {"x", "y"} <= set(ids)


def test_pending_space_waits_for_a_worker_and_can_be_deleted(http: httpx.Client) -> None:
    http.put("/anchor-sets/D", json={"modality": "text", "items": ["one", "two", "three"]})
    body = {
        "anchor_set": "D",
        "encoder": {"kind": "transformers", "model": "sentence-transformers/some-model"},
    }
    accepted = http.put("/spaces/d", json=body)
    assert accepted.status_code == 202
    assert accepted.json()["progress"] == {"done": 0, "total": 3}
    check(http.put("/spaces/d", json=body, headers={"If-None-Match": "*"}), 412)
    check(http.post("/translate", json={"source": "d", "target": "d", "embeddings": [[1]]}), 409)
    check(
        http.put("/anchor-sets/E", json={"modality": "text", "items": ["a", " "]}), 422, "/items/1"
    )
    image = {"anchor_set": "D", "encoder": {"kind": "timm", "model": "resnet18"}}
    check(http.put("/spaces/d2", json=image), 409, detail="embeds image items")
    assert http.delete("/spaces/d").status_code == 204
    assert http.delete("/anchor-sets/D").status_code == 204


def test_anchor_sets_as_multipart_and_as_ndjson_equal_json(http: httpx.Client) -> None:
    texts = ["one", "two", "three"]
    named = {"modality": "text", "items": texts, "ids": ["a", "b", "c"]}
    first = http.put("/anchor-sets/J", json=named)
    lines = "\n".join(
        f'{{"id": "{name}", "item": "{text}"}}' for name, text in zip("abc", texts, strict=True)
    )
    query = {"modality": "text"}
    headers = {"Content-Type": "application/x-ndjson"}
    again = http.put("/anchor-sets/J", params=query, content=lines, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200), again.text
    bad = http.put("/anchor-sets/J2", params=query, content=lines + "\n{", headers=headers)
    check(bad, 400, detail="line 4")
    files = [("items", text.encode()) for text in texts]
    parts = http.put("/anchor-sets/F", data={"modality": "text"}, files=files)
    assert parts.status_code == 201, parts.text
    plain = http.put("/anchor-sets/F", json={"modality": "text", "items": texts})
    assert plain.status_code == 200, "the same content, however it came"
    request = http.build_request("PUT", "/anchor-sets/F2", params=query, files=files)
    cut = http.put(
        request.url,
        content=request.read()[:-40],
        headers={"Content-Type": request.headers["content-type"]},
    )
    check(cut, 400, detail="cut")


def test_operation_routes_respond(http: httpx.Client) -> None:
    assert http.get("/health/live").status_code == 200
    ready = http.get("/health/ready")
    assert (ready.status_code, ready.json()["workers"]) == (200, 0)
    assert http.get("/info").json()["durability"].startswith("aof")
    paths = http.get("/openapi.json").json()["paths"]
    parameters = {part["name"] for part in paths["/translate"]["post"]["parameters"]}
    assert {"source", "target", "bridge"} <= parameters
    assert {"/translate", "/stitch/{encoder}/{head}", "/spaces/{id}"} <= paths.keys()
    response = http.get("/info", headers={"X-Request-ID": "my-id"})
    assert response.headers["x-request-id"] == "my-id"
