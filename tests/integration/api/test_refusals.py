"""Invalid input over HTTP: each error has its status, its pointer, and what was expected."""

import pickle
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from tests.conftest import Pair

TO_Y = {"source": "x", "target": "y"}
GOOD = [0.5] * 24


def check(
    response: httpx.Response, status: int, pointer: str | None = None, detail: str = ""
) -> None:
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status), problem
    assert problem["request_id"] == response.headers["x-request-id"]
    assert detail in problem["detail"], problem
    if pointer is not None:
        assert problem.get("pointer") == pointer, problem


@pytest.mark.parametrize(
    ("rows", "pointer", "detail"),
    [
        ("[[NaN]]", "/embeddings/0/0", "nan"),
        ("[[1, Infinity]]", "/embeddings/0/1", "inf"),
        ("[[1], [1e400]]", "/embeddings/1/0", "inf"),
        ("[[1e39]]", "/embeddings/0/0", "float32"),
        ("[[1, null]]", "/embeddings/0/1", "null"),
        ("[[true]]", "/embeddings/0/0", "boolean"),
        ('[["1.5"]]', "/embeddings/0/0", "string"),
        ("[[1, 2], [3]]", "/embeddings/1", "2 numbers"),
        ("[1, 2]", "/embeddings/0", "a number"),
        ("[]", "/embeddings", "empty"),
        ("[[]]", "/embeddings", "shape"),
        ("5", "/embeddings", "a number"),
        ("null", "/embeddings", "null"),
        ("[[1, 2, 3]]", "/embeddings", "expected embeddings of 24 numbers, as space x has, got 3"),
    ],
)
def test_invalid_vectors_are_refused_with_their_pointer(
    http: httpx.Client, spaces: Pair, rows: str, pointer: str, detail: str
) -> None:
    body = f'{{"source": "x", "target": "y", "embeddings": {rows}}}'
    check(http.post("/translate", content=body), 422, pointer, detail)


@pytest.mark.parametrize("field", ["anchors", "weight", "bias", "layers", "fit"])
def test_invalid_vectors_in_other_fields_are_refused_with_their_pointer(
    http: httpx.Client, spaces: Pair, field: str
) -> None:
    bad: Any = [[1, None]]
    bodies: dict[str, tuple[str, dict[str, Any], str]] = {
        "anchors": ("/spaces/bad", {"anchor_set": "Z", "anchors": bad}, "/anchors/0/1"),
        "weight": (
            "/heads/bad",
            {"space": "y", "weight": bad, "labels": ["a"]},
            "/weight/0/1",
        ),
        "bias": (
            "/heads/bad",
            {"space": "y", "weight": [[1]], "bias": [None], "labels": ["a"]},
            "/bias/0",
        ),
        "layers": (
            "/heads/bad",
            {"space": "y", "layers": [{"weight": [[1]]}, {"weight": bad}], "labels": ["a"]},
            "/layers/1/weight/0/1",
        ),
        "fit": (
            "/heads/bad",
            {"space": "y", "fit": {"embeddings": bad, "labels": ["a", "b"]}},
            "/fit/embeddings/0/1",
        ),
    }
    path, body, pointer = bodies[field]
    check(http.put(path, json=body), 422, pointer, "null")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        ('{"source": "x"}'.encode("utf-16"), 400),
        (b"[" * 100_000, 422),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 422),
        (b"[1]", 422),
        (b"5", 422),
    ],
)
def test_malformed_body_is_refused(http: httpx.Client, content: bytes, status: int) -> None:
    check(http.post("/translate", content=content), status)


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"\x93NUMPY", 400),
        (npy("{'descr':'<f4','fortran_order':False,'shape':(4,24),}", b"\0" * 8), 400),
        (npy(f"{{'descr':'<f4','fortran_order':False,'shape':(0,{2**70}),}}"), 422),
        (npy(f"{{'descr':'<f4','fortran_order':False,'shape':({2**40},{2**40}),}}"), 400),
        (npy(f"{{'descr':'<f4','fortran_order':False,'shape':({'1,' * 65}),}}", b"\0" * 4), 422),
        (npy("{'descr':'<f4','fortran_order':False,'shape':(True,8),}", b"\0" * 32), 422),
        (npy("{'descr':'|O','fortran_order':False,'shape':(1,),}", pickle.dumps([1])), 422),
        (npy("{{{{{{{{{{{{{'a\n"), 400),
        (npy("(" * 200 + "\n"), 400),
        (npy("[" * 3000 + "\n"), 400),
        (npy("-" * 3900 + "1\n"), 400),
        (npy('"""abc\n'), 400),
        (npy("{[]:1}\n"), 400),
        (npy("{1:1,'a':2}\n"), 400),
        (
            npy(
                "{'descr':'<f4','fortran_order':False,'shape':(1,24),}",
                b"\0" * 96,
                b"\x09\x09",
            ),
            400,
        ),
    ],
)
def test_invalid_npy_file_is_refused(
    http: httpx.Client, spaces: Pair, content: bytes, status: int
) -> None:
    headers = {"Content-Type": "application/x-npy"}
    response = http.post("/translate", params=TO_Y, content=content, headers=headers)
    check(response, status)


def tensor(header: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"\xff" * 8, 400),
        (tensor("{"), 400),
        (
            tensor(
                '{"embeddings":{"dtype":"F32","shape":[1,24],"data_offsets":[0,96]}}', b"\0" * 9
            ),
            400,
        ),
        (
            tensor(
                '{"embeddings":{"dtype":"F32","shape":[0,4611686018427387904],'
                '"data_offsets":[0,0]}}'
            ),
            400,
        ),
        (
            tensor(
                f'{{"embeddings":{{"dtype":"F32","shape":[{",".join("1" * 70)}],'
                '"data_offsets":[0,4]}}',
                b"\0" * 4,
            ),
            422,
        ),
        (tensor('{"embeddings":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}', b"\0" * 8), 422),
        (save({"other": np.ones((1, 24), np.float32)}), 422),
        (save({"embeddings": np.full((1, 24), np.nan, np.float32)}), 422),
    ],
)
def test_invalid_safetensors_file_is_refused(
    http: httpx.Client, spaces: Pair, content: bytes, status: int
) -> None:
    headers = {"Content-Type": "application/vnd.safetensors"}
    response = http.post("/translate", params=TO_Y, content=content, headers=headers)
    check(response, status)


def test_invalid_base64_row_is_refused_with_its_pointer(http: httpx.Client, spaces: Pair) -> None:
    body = {**TO_Y, "encoding_format": "base64"}
    check(http.post("/translate", json={**body, "embeddings": ["*"]}), 422, "/embeddings/0")
    check(http.post("/translate", json={**body, "embeddings": ["AAA="]}), 422, "/embeddings/0")
    ragged = {**body, "embeddings": ["AAAAAAAAAAA=", "AAAAAA=="]}
    check(http.post("/translate", json=ragged), 422, "/embeddings/1", "2 numbers")


def test_body_above_the_limit_is_refused(http: httpx.Client) -> None:
    check(http.post("/translate", content=b" " * 3_000_000), 413, detail="max_body_bytes")

    def endless() -> Any:
        for _ in range(100):
            yield b" " * 100_000

    check(http.post("/translate", content=endless()), 413)
    gzipped = http.post("/translate", content=b"x", headers={"Content-Encoding": "gzip"})
    check(gzipped, 415, detail="gzip")


@pytest.mark.parametrize("name", ["a:b", "a*", "a b", "-a", "é", "a" * 129, "..", "a\u200b"])
def test_invalid_id_is_refused(http: httpx.Client, name: str) -> None:
    body = {"anchor_set": "S", "anchors": [[1.0], [2.0]]}
    response = http.put(f"/spaces/{name}", json=body)
    # Clients resolve dots, so that one is the path of the page, which is only read.
    assert response.status_code == (405 if name == ".." else 422)
    check(http.post("/spaces", json={**body, "id": name}), 422, "/id")


def test_id_with_a_slash_is_refused(http: httpx.Client) -> None:
    names = {"a%2Fb": 404, "../x": 404, "%2e%2e%2fx": 404, "a%0d%0aX:1": 422}
    for name, status in names.items():
        response = http.put(f"/spaces/{name}", json={"anchor_set": "S", "anchors": [[1.0], [2.0]]})
        assert response.status_code == status, name


def test_unsupported_methods_media_types_and_headers_are_refused(
    http: httpx.Client, spaces: Pair
) -> None:
    patched = http.patch("/spaces/x")
    check(patched, 405)
    assert patched.headers["allow"] == "DELETE, GET, HEAD, PUT"
    for media in ("text/plain", "multipart/form-data; boundary=x", "application/x-ndjson"):
        check(http.post("/translate", content=b"x", headers={"Content-Type": media}), 415)
    for media in ("multipart/form-data; boundary=x", "application/x-ndjson"):
        response = http.post("/v1/embeddings", content=b"x", headers={"Content-Type": media})
        # Every bad request is a 400 to OpenAI's clients; the code is that of a 415.
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["code"] == "unsupported-format"
        assert error["message"].startswith("expected a body of type application/json, got ")
    for wrong in ("abc", "-1", "0", "nan", "inf"):
        body = {**TO_Y, "embeddings": [GOOD]}
        response = http.post("/translate", json=body, headers={"X-Request-Timeout": wrong})
        check(response, 422, detail="X-Request-Timeout")
    check(http.get("/spaces", params={"cursor": "*"}), 422, "/cursor")
    check(http.get("/nowhere"), 404)


def test_unknown_fields_bridges_and_resources_are_refused(http: httpx.Client, spaces: Pair) -> None:
    body = {**TO_Y, "embeddings": [GOOD]}
    check(http.post("/translate", json={**body, "extra": 1}), 422, "/extra", "source, target")
    check(http.post("/translate", json={**body, "bridge": "magic"}), 422, "/bridge", "ridge")
    check(http.post("/translate", json={**body, "bridge": "none"}), 422, "/bridge", "24 wide")
    check(http.post("/translate", json={**body, "target": "nobody"}), 404, detail="nobody")
    check(http.post("/classify/nobody", json={"space": "x", "embeddings": [GOOD]}), 404)
    check(http.post("/stitch/x/h", json={"items": ["a"]}), 422, detail="no encoder")


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"weight": [[1.0] * 5], "labels": ["a", "b"]}, 422, "32 wide, the head takes 5"),
        ({"weight": [[1.0] * 32] * 3, "labels": ["a", "b"]}, 422, "3 classes, got 2 labels"),
        ({"weight": [[1.0] * 32], "labels": ["a"]}, 422, "two labels for a head with a single"),
        ({"weight": [[1.0] * 32] * 2, "labels": ["a", "a"]}, 422, "distinct labels, got 'a' twice"),
        ({"weight": [[1.0] * 32] * 2}, 422, "labels"),
        ({"labels": ["a"]}, 422, "got none"),
        ({"weight": [[1.0] * 32] * 2, "bias": [1.0], "labels": ["a", "b"]}, 422, "bias"),
        ({"classifier": True}, 422, "has no encoder"),
        ({"fit": {"items": ["a", "b"], "labels": ["x", "y"]}}, 422, "has no encoder"),
        ({"fit": {"embeddings": [GOOD, GOOD], "labels": ["x", "y"]}}, 422, "32 numbers"),
        ({"fit": {"embeddings": [GOOD, GOOD], "labels": ["x"]}}, 422, ""),
        ({"fit": {"embeddings": [GOOD, GOOD], "labels": ["x", "x"]}}, 422, "two classes"),
    ],
)
def test_invalid_head_is_refused_and_not_registered(
    http: httpx.Client, spaces: Pair, body: dict[str, Any], status: int, detail: str
) -> None:
    check(http.put("/heads/bad", json={"space": "y", **body}), status, detail=detail)
    assert http.get("/heads/bad").status_code == 404


def test_fit_of_as_many_classes_as_rows_is_refused_with_its_number(
    http: httpx.Client, spaces: Pair
) -> None:
    count = 15_000
    fit = {"embeddings": [[1] + [0] * 31] * count, "labels": [str(i) for i in range(count)]}
    response = http.put("/heads/bad", json={"space": "y", "fit": fit})
    check(response, 413, detail=f"(max_fit_scores), got {count * count}")
    assert http.get("/heads/bad").status_code == 404


@pytest.mark.parametrize(
    "body", [{"classifier": True}, {"fit": {"items": ["a", "b"], "labels": ["x", "y"]}}]
)
def test_head_from_the_encoder_of_a_space_without_one_is_refused_by_its_code(
    http: httpx.Client, spaces: Pair, body: dict[str, Any]
) -> None:
    problem = http.put("/heads/bad", json={"space": "y", **body}).json()
    assert problem["code"] == "no-encoder"
