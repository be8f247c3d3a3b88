"""Bad inputs over HTTP; `test_refusals` and the chaos tests have more."""

import gzip
import io
import json
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from tests.conftest import Pair
from tests.integration.api.test_refusals import GOOD, TO_Y, check
from tests.support import machine
from tests.support.memory import MB, resident

MAX_BODY_BYTES = 2_000_000


def test_error_about_nan_is_valid_json(http: httpx.Client, spaces: Pair) -> None:
    for number in ("NaN", "-Infinity", "1e400", "null"):
        body = f'{{"source": "x", "target": "y", "embeddings": [[{number}]]}}'
        response = http.post("/translate", content=body)
        check(response, 422, "/embeddings/0/0")

        def never(constant: str) -> None:
            raise AssertionError(constant)

        json.loads(response.text, parse_constant=never)
    for field in ("top", "bridge"):
        body = f'{{"space": "x", "{field}": NaN, "embeddings": [{GOOD}]}}'
        check(http.post("/classify/h", content=body), 422, f"/{field}")


@pytest.mark.parametrize(
    ("field", "value"), [("top", "3"), ("top", True), ("top", 2.5), ("bridge", 1), ("space", 7)]
)
def test_fields_of_another_type_are_refused(
    http: httpx.Client, spaces: Pair, field: str, value: Any
) -> None:
    body = {"space": "x", "embeddings": [GOOD], field: value}
    check(http.post("/classify/h", json=body), 422, f"/{field}")


def test_tiny_file_that_claims_a_huge_shape_is_refused(
    http: httpx.Client, spaces: Pair, pid: int
) -> None:
    header = b"{'descr':'<f4','fortran_order':False,'shape':(1000000000,1000000),}"
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    template = b'{"embeddings":{"dtype":"F32","shape":[1000000000,1000000],"data_offsets":[0,%d]}}'
    tensors = template % (4 * 10**15)
    bodies = {
        "application/x-npy": npy,
        "application/vnd.safetensors": len(tensors).to_bytes(8, "little") + tensors,
    }
    before = resident(pid)
    for media, content in bodies.items():
        response = http.post(
            "/translate", params=TO_Y, content=content, headers={"Content-Type": media}
        )
        check(response, 400)
    assert resident(pid) - before < 20 * MB


def test_gzip_bomb_and_endless_body_leave_memory_flat(
    http: httpx.Client, spaces: Pair, pid: int
) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < MAX_BODY_BYTES
    before = resident(pid)
    for coding in ("gzip", "deflate", "br", "gzip, identity"):
        headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
        check(http.post("/translate", content=bomb, headers=headers), 415, detail="uncompressed")

    def flood() -> Iterator[bytes]:
        for _ in range(500):
            yield b" " * 100_000

    check(http.post("/translate", content=flood()), 413, detail="max_body_bytes")
    assert resident(pid) - before < 20 * MB


def test_wrong_content_length_is_refused(http: httpx.Client, url: str) -> None:
    for claimed, sent, status in ((10**12, b"{}", b"413"), (5, b"{}" * 50, b"400")):
        head = (
            f"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            f"Content-Length: {claimed}\r\n\r\n"
        )
        first = raw(url, head.encode() + sent).split(b"\r\n")[0]
        assert first.split()[1] == status, first
    for length in ("-1", "x", "1e3"):
        head = f"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{{}}"
        assert raw(url, head.encode()).split()[1] == b"400"
    assert http.get("/health/live").status_code == 200


def raw(url: str, data: bytes) -> bytes:
    """What comes back for bytes that no client would send."""
    where = urlsplit(url)
    with socket.create_connection(
        (where.hostname or "", where.port or 0), timeout=machine.deadline(20)
    ) as line:
        line.sendall(data)
        return line.recv(65_536)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"source":"x","target":"y","target":"x","embeddings":[[1]]}', 400),
        (b'{"source":"x","target":"y","embeddings":[[1]],"\\u0073ource":"y"}', 400),
        (b'{"source":"x","target":"y","embeddings":[[1]]}\x00', 400),
        (b'{"source":"x\x00","target":"y","embeddings":[[1]]}', 400),
        (b'{"source":"x\\u0000","target":"y","embeddings":[[1]]}', 422),
        (b'{"source":"\xc3\x28","target":"y","embeddings":[[1]]}', 400),
        (b'{"source":"\\ud800","target":"y","embeddings":[[1]]}', 422),
        (b'{"\\ud800":1,"source":"x","target":"y","embeddings":[[1]]}', 422),
        (b'{"embeddings":' + b"[" * 60 + b"]" * 60 + b"}", 422),
        (b'{"embeddings":' + b"[" * 900 + b"]" * 900 + b"}", 422),
        (b'{"embeddings":' + b"[" * 90_000 + b"]" * 90_000 + b"}", 422),
        (b'{"embeddings":' + b"[" * 90_000, 422),
        (b'{"source":' * 60 + b"1" + b"}" * 60, 422),
        (b'{"source":' * 900 + b"1" + b"}" * 900, 422),
    ],
)
def test_nesting_duplicate_keys_and_bad_unicode_are_refused(
    http: httpx.Client, spaces: Pair, body: bytes, status: int
) -> None:
    check(http.post("/translate", content=body), status)


def test_duplicate_keys_and_nul_in_other_fields_are_refused(
    http: httpx.Client, spaces: Pair
) -> None:
    nested = b'{"anchor_set":"Z","irp":{"omega":2,"omega":3},"anchors":[[1],[2]]}'
    duplicate = http.put("/spaces/twice", content=nested)
    check(duplicate, 400, detail="'omega' twice")
    assert duplicate.json()["code"] == "duplicate-key"
    npy = io.BytesIO()
    np.save(npy, np.ones((1, 24), np.float32))
    twice = http.post(
        "/translate?source=x&target=y&target=x",
        content=npy.getvalue(),
        headers={"Content-Type": "application/x-npy"},
    )
    check(twice, 422, detail="'target' twice")
    lines = b'{"item": "a", "item": "b"}\n{"item": "c"}'
    headers = {"Content-Type": "application/x-ndjson"}
    check(http.put("/anchor-sets/Z?modality=text", content=lines, headers=headers), 400)
    texts = {"modality": "text", "items": ["a", "b\0c"]}
    check(http.put("/anchor-sets/Z", json=texts), 422, "/items/1", "NUL")
    label = {"space": "y", "weight": [[1.0] * 32], "labels": ["a\0"]}
    check(http.put("/heads/nul", json=label), 422, "/labels/0")


def test_hostile_ids_escape_no_key(http: httpx.Client, spaces: Pair) -> None:
    def records() -> list[dict[str, Any]]:
        # Comparisons of spaces are computed later.
        later = {"checks", "warnings", "agreement"}
        listed = http.get("/spaces").json()["items"]
        return [{k: v for k, v in record.items() if k not in later} for record in listed]

    before = records()
    body = {"anchor_set": "S", "anchors": [[1.0], [2.0]]}
    for name in ("..%2f..%2fx", "x:arrays:1", "x%00", "x%0d%0aSET%20a%201", "*", "%E2%80%AE", "x%"):
        # A slash makes another path; all else is no id.
        status = 404 if "%2f" in name else 422
        assert http.put(f"/spaces/{name}", json=body).status_code == status, name
        assert http.get(f"/spaces/{name}").status_code == status, name
        assert http.delete(f"/spaces/{name}").status_code == status, name
    check(http.put("/spaces/" + "a" * 50_000, json=body), 422)
    check(http.post("/spaces", json={**body, "id": "a" * 1_000_000}), 422, "/id")
    check(http.post("/spaces", json={**body, "id": "q", "anchor_set": "S:1"}), 422, "/anchor_set")
    assert records() == before
    long = raw(str(http.base_url), b"GET /spaces/" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n")
    assert long.split()[1] in (b"400", b"414", b"422", b"431")


@pytest.mark.parametrize("scheme", ["http", "https", "file", "ftp", "data"])
def test_image_urls_are_not_followed_by_default(http: httpx.Client, scheme: str) -> None:
    """Images and texts come by value: there is no code that would fetch them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        port = server.getsockname()[1]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "169.254.169.254"):
            address = f"{scheme}://{host}/a.png"
            image = {"modality": "image", "items": [address, address]}
            check(http.put("/anchor-sets/url", json=image), 422, "/items/0", "base64")
            for field in ("url", "image_url", "source"):
                body = {"items": ["a"], field: address}
                check(http.post("/embed/x", json=body), 422, f"/{field}")
        with pytest.raises(TimeoutError):
            server.accept()


def test_pickles_are_refused_unread(http: httpx.Client, spaces: Pair, tmp_path: Path) -> None:
    planted = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (planted,)

    pickled = pickle.dumps(Bomb())
    for media, status in (
        ("application/octet-stream", 415),
        ("application/x-pickle", 415),
        ("application/x-npy", 400),
        ("application/vnd.safetensors", 400),
    ):
        headers = {"Content-Type": media}
        check(http.put("/heads/b?space=y", content=pickled, headers=headers), status)
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], object), allow_pickle=True)
    response = http.put(
        "/heads/b?space=y", content=file.getvalue(), headers={"Content-Type": "application/x-npy"}
    )
    check(response, 422)
    assert not planted.exists()


@pytest.mark.parametrize(
    "weights",
    [
        {"0.weight": np.ones((2, 3), np.float32)},
        {"0.weight": np.ones((2, 3), np.float32), "0.bias": np.ones(5, np.float32)},
        {"0.weight": np.ones((2, 32), np.float32), "2.weight": np.ones((2, 9), np.float32)},
        {"weight": np.ones((2, 32), np.float32), "9.weight": np.ones((2, 2), np.float32)},
        {"weight": np.ones((2, 32), np.int64)},
    ],
)
def test_tensors_that_make_no_head_are_refused(
    http: httpx.Client, spaces: Pair, weights: dict[str, Any]
) -> None:
    data = save(weights, {"labels": '["a", "b"]', "activation": "relu"})
    headers = {"Content-Type": "application/vnd.safetensors"}
    response = http.put("/heads/bad?space=y", content=data, headers=headers)
    check(response, 422)
    assert http.get("/heads/bad").status_code == 404


def test_degenerate_anchors_are_measured_or_refused(http: httpx.Client) -> None:
    rng = np.random.default_rng(0)
    few, line = rng.normal(size=(3, 8)), np.outer(np.arange(1.0, 9.0), np.ones(8))
    double = np.repeat(rng.normal(size=(4, 8)), 2, axis=0)
    for name, rows in (("few", few), ("line", line), ("double", double)):
        response = http.put(
            f"/spaces/b11-{name}", json={"anchor_set": f"B11{name}", "anchors": rows.tolist()}
        )
        assert response.status_code == 201, response.text
        assert response.json()["rank"] < 8
        assert np.isfinite(response.json()["condition_number"])
        *flaws, few, _ = response.json()["warnings"]
        assert "anchors are few" in few
        assert bool(flaws) == (name != "few")
        for bridge in ("exp", "ridge", "irp", "irp-completed"):
            id_ = f"b11-{name}"
            other = f"b11-{name}-2"
            body = {
                "anchor_set": f"B11{name}",
                "anchors": (rows @ rng.normal(size=(8, 5))).tolist(),
            }
            assert http.put(f"/spaces/{other}", json=body).is_success
            request = {"source": id_, "target": other, "bridge": bridge, "embeddings": [[1.0] * 8]}
            response = http.post("/translate", json=request)
            assert response.status_code == 200, response.text
            assert np.isfinite(np.array(response.json()["embeddings"], float)).all()
    same = {"anchor_set": "B11same", "anchors": [[1.0, 2.0]] * 6}
    check(http.put("/spaces/b11-same", json=same), 422)
    huge = {"anchor_set": "B11huge", "anchors": (rng.normal(size=(6, 4)) * 1e30).tolist()}
    check(http.put("/spaces/b11-huge", json=huge), 422)


def test_set_of_equal_size_and_width_is_another_set(http: httpx.Client, spaces: Pair) -> None:
    body = {"anchor_set": "B12", "anchors": spaces.y_anchors.tolist()}
    assert http.put("/spaces/b12", json=body).status_code == 201
    request = {"source": "x", "target": "b12", "embeddings": [GOOD]}
    response = http.post("/translate", json=request)
    check(response, 409, detail="anchor set")
    assert response.json()["code"] == "anchor-set-mismatch"
    check(http.post("/classify/h", json={"space": "b12", "embeddings": [[0.5] * 32]}), 409)


def test_labels_with_html_stay_data(http: httpx.Client, spaces: Pair) -> None:
    label = "<script>alert(1)</script>"
    body = {"space": "y", "weight": [[1.0] * 32, [-1.0] * 32], "labels": [label, "\u2028\"'"]}
    assert http.put("/heads/html", json=body).status_code == 201
    for response in (
        http.get("/heads/html"),
        http.post("/classify/html", json={"space": "x", "embeddings": [GOOD]}),
        http.post("/compatibility/x/html", json={"labels": ["<b>"], "embeddings": [GOOD]}),
        http.get("/spaces/<script>"),
    ):
        media_type = "application/json" if response.is_success else "application/problem+json"
        assert response.headers["content-type"] == media_type
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "charset" not in response.headers["content-type"]


def test_unsupported_methods_are_refused(http: httpx.Client) -> None:
    for method, path, allowed in (
        ("POST", "/anchor-sets/S", "DELETE, GET, HEAD, PUT"),
        ("GET", "/translate", "POST"),
        ("HEAD", "/translate", "POST"),
        ("OPTIONS", "/spaces", "GET, HEAD, POST"),
        ("TRACE", "/info", "GET, HEAD"),
        ("DELETE", "/health/live", "GET, HEAD"),
    ):
        response = http.request(method, path)
        assert (response.status_code, response.headers["allow"]) == (405, allowed)
    for path in ("/info", "/health/live", "/spaces"):
        head, whole = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.content))
    assert http.head("/spaces/nobody").status_code == 404


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1e2", "9" * 5000])
def test_malformed_pages_are_refused(http: httpx.Client, limit: str) -> None:
    check(http.get("/spaces", params={"limit": limit}), 422, "/limit")
    check(http.get("/heads", params={"cursor": "a\r\nb"}), 422, "/cursor")
