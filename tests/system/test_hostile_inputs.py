"""Hostile texts, images and models through real HTTP and a real worker, and random requests."""

import base64
import io
import json
import random
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.supervisor import ServiceProcess
from tests.fuzz.seeds import seeds
from tests.integration.api.test_refusals import check
from tests.support import machine
from tests.support.memory import MB, resident
from tests.support.running_service import MAX_PIXELS, SharedService
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

NAME = "tf_efficientnet_lite0"


class Host(NamedTuple):
    """A service with a worker, a text space `t`, an image space `i`, and a head of each."""

    http: httpx.Client
    running: ServiceProcess
    folder: Path


@pytest.fixture(scope="module")
def host(shared_service: SharedService) -> Iterator[Host]:
    folder = shared_service.folder / "hostile"
    folder.mkdir()
    image = {"kind": "timm", "model": NAME, "weights": str(shared_service.lite0), "input_size": 32}
    text = {"kind": "transformers", "model": str(minilm_folder())}
    with httpx.Client(base_url=shared_service.running.url, timeout=machine.deadline(120)) as http:
        for id_, spec, width in (("t", text, 384), ("i", image, 1280)):
            rows = np.random.default_rng(0).normal(size=(8, width)).tolist()
            body = {"anchor_set": id_.upper(), "anchors": rows, "encoder": spec}
            assert http.put(f"/spaces/{id_}", json=body).status_code == 201
            head = {"space": id_, "weight": np.eye(2, width).tolist(), "labels": ["a", "b"]}
            assert http.put(f"/heads/{id_}", json=head).status_code == 201
        for id_, item in (("t", "a text"), ("i", encoded(file(picture())))):
            assert http.post(f"/stitch/{id_}/{id_}", json={"items": [item]}).is_success
        yield Host(http, shared_service.running, folder)


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def memory(host: Host, name: str) -> int:
    """Resident bytes of the API or of the worker."""
    (pid,) = [pid for known, pid in host.running.pids.items() if known.startswith(name)]
    return resident(pid)


def test_bad_texts_are_refused_or_cut_on_request(host: Host) -> None:
    for items, pointer, message in (
        (["ok", ""], "/items/1", "not empty"),
        (["ok", " \n\t "], "/items/1", "not empty"),
        (["ok", "fine", "word " * 600], "/items/2", "at most 256 tokens for"),
        (["x" * 10_000_000], "/items/0", "10000000 characters"),
        (["ok", "\ud800"], "/items/1", "Unicode"),
        (["a\0b"], "/items/0", "NUL"),
    ):
        for path in ("/embed/t", "/stitch/t/t"):
            content = escaped({"items": items})
            check(host.http.post(path, content=content), 422, pointer, message)
    cut = {"items": ["ok", "word " * 600], "truncate": True}
    assert host.http.post("/stitch/t/t", json=cut).json()["truncated"] == [1]
    assert host.http.post("/embed/t", json=cut).json()["truncated"] == [1]


def escaped(value: Any) -> bytes:
    """JSON with its surrogates as escapes, which httpx would refuse to send."""
    return json.dumps(value).encode()


def claims(side: int) -> bytes:
    """A PNG whose header claims to be as wide and high as this."""
    small = file(Image.new("1", (8, 8)))
    size = side.to_bytes(4, "big")
    chunk = b"IHDR" + size + size + small[24:29]
    return small[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + small[33:]


def scans(count: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    plain = file(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    last = plain.rfind(b"\xff\xda")
    return plain[:last] + plain[last:-2] * count + plain[-2:]


def test_bad_images_are_refused(host: Host) -> None:
    good = file(picture())
    before = memory(host, "worker")
    for bad, status, message in (
        (claims(60_000), 413, f"{MAX_PIXELS} pixels (max_image_pixels)"),
        (claims(9_000), 413, "9000 x 9000"),
        (file(Image.new("1", (1, 4000))), 422, "ratio"),
        (file(picture(200, 200), "JPEG")[:2000], 422, "truncated or corrupt"),
        (file(picture(200, 200), "WEBP")[:500], 422, "truncated or corrupt"),
        (good[:60], 422, "truncated or corrupt"),
        (scans(5_000), 413, "scans"),
        (file(picture(), "GIF")[:1200], 422, "truncated or corrupt"),
        (file(picture(), "BMP")[:500], 422, "truncated or corrupt"),
        (file(picture(), "TIFF")[:2000], 422, "truncated or corrupt"),
        (file(picture(), "PPM"), 415, "JPEG, PNG, WEBP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "JPEG, PNG, WEBP"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, 415, "JPEG, PNG, WEBP"),
        (b"", 415, "JPEG, PNG, WEBP"),
    ):
        body = {"items": [encoded(good), encoded(good), encoded(bad)]}
        check(host.http.post("/stitch/i/i", json=body), status, "/items/2", message)
    check(host.http.post("/embed/i", json={"items": ["no base64"]}), 422, "/items/0", "base64")
    assert memory(host, "worker") - before < 150 * MB


def test_unusual_images_are_served(host: Host) -> None:
    flat = np.full((8, 8), 40_000, np.uint16)
    served = [
        file(picture(1, 1)),
        file(picture(mode="L")),
        file(picture(mode="LA")),
        file(picture(mode="RGBA")),
        file(picture(mode="P"), transparency=3),
        file(picture(mode="1")),
        file(picture(mode="CMYK"), "JPEG"),
        file(Image.fromarray(flat)),
        file(picture(), "WEBP", lossless=True, save_all=True, append_images=[picture(mode="L")]),
        file(picture(), "PNG", save_all=True, append_images=[picture(mode="L")]),
        scans(20),
        file(picture(), "GIF"),
        file(picture(), "BMP"),
        file(picture(), "TIFF"),
        file(picture(), "AVIF"),
        file(picture(), "JPEG") + b"\xff\xda" * 200,
    ]
    response = host.http.post("/embed/i", json={"items": [encoded(one) for one in served]})
    assert response.status_code == 200, response.text
    rows = np.array(response.json()["embeddings"])
    assert rows.shape == (len(served), 1280)
    assert np.isfinite(rows).all()
    for animated in (8, 9):
        first = host.http.post("/embed/i", json={"items": [encoded(file(picture()))]}).json()
        off = np.abs(rows[animated] - first["embeddings"][0]).max()
        assert off < 0.5 * np.abs(rows[animated]).max(), "the first frame counts"


@pytest.mark.slow
def test_largest_images_leave_memory_flat(host: Host) -> None:
    before = memory(host, "worker")
    for _ in range(3):
        body = {"items": [encoded(file(Image.new("RGBA", (8_000, 8_000), (9, 9, 9, 99))))]}
        assert host.http.post("/embed/i", json=body).status_code == 200
    assert memory(host, "worker") - before < 300 * MB, "memory of decoded images is not released"


def test_model_files_that_are_not_plain_tensors_run_no_code(host: Host) -> None:
    items = {"modality": "text", "items": ["one", "two", "three"]}
    images = {"modality": "image", "items": [encoded(file(picture()))] * 3}
    assert host.http.put("/anchor-sets/b10-t", json=items).is_success
    assert host.http.put("/anchor-sets/b10-i", json=images).is_success
    planted = host.folder / "ran"
    (host.folder / "bad.safetensors").write_bytes(b"\xff" * 64)
    (host.folder / "pickled.pth").write_bytes(b"cpathlib\nPath\n.")
    code = host.folder / "code"
    code.mkdir(exist_ok=True)
    (code / "config.json").write_text(
        '{"model_type": "bert", "auto_map": {"AutoModel": "code.Model", "AutoConfig": "code.C"}}'
    )
    (code / "code.py").write_text(
        f"open({str(planted)!r}, 'w')\nclass Model: pass\nclass C: pass\n"
    )
    (host.folder / "link").unlink(missing_ok=True)
    (host.folder / "link").symlink_to("/etc")
    timm = {"kind": "timm", "model": NAME}
    text = {"kind": "transformers"}
    for number, (set_, spec, message) in enumerate(
        (
            (
                "b10-i",
                {**timm, "weights": str(host.folder / "bad.safetensors")},
                "safetensors",
            ),
            (
                "b10-i",
                {**timm, "weights": str(host.folder / "pickled.pth")},
                "pickles are not supported",
            ),
            ("b10-i", {**timm, "weights": "/etc/passwd"}, "model_roots"),
            ("b10-i", {**timm, "weights": str(host.folder / "link/passwd")}, "model_roots"),
            ("b10-t", {**text, "model": str(code)}, "code"),
            ("b10-t", {**text, "model": f"{host.folder}/../../etc"}, "model_roots"),
            ("b10-t", {**text, "model": "sentence-transformers/nothing"}, "offline"),
        )
    ):
        path, body = f"/spaces/b10-{number}", {"anchor_set": set_, "encoder": spec}
        assert host.http.put(path, json=body).status_code == 202
        wait_until("it failed", partial(failed, host, path), 60)
        assert message in host.http.get(path).json()["reason"]
    assert not planted.exists()
    assert host.http.post("/stitch/t/t", json={"items": ["still here"]}).is_success


def failed(host: Host, path: str) -> bool:
    return bool(host.http.get(path).json()["status"] == "failed")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_requests_at_random_and_none_is_500(host: Host) -> None:
    """Afterwards the memory of the API and of the worker is what it was."""
    rng = random.Random(0)  # noqa: S311 no secret
    flood(host, rng, 500)
    before = {name: memory(host, name) for name in ("api", "worker")}
    statuses = flood(host, rng, 10_000)
    after = {name: memory(host, name) for name in ("api", "worker")}
    assert not {status for status in statuses if status >= 500 and status not in (503, 504)}, (
        statuses
    )
    assert statuses[200] > 100, statuses
    for name, base in before.items():
        assert after[name] < 1.1 * base, (before, after)


def flood(host: Host, rng: random.Random, count: int) -> Counter[int]:
    """Send mutated valid requests; the count of each status."""
    kinds = {
        "application/json": [data[1:] for data in seeds()["json"]],
        "application/x-npy": seeds()["npy"],
        "application/vnd.safetensors": seeds()["safetensors"],
        "application/x-ndjson": [seeds()["raw"][0][1:]],
        "multipart/form-data; boundary=b": [seeds()["raw"][1][1:]],
    }
    pictures = [b'{"items": ["' + base64.b64encode(one) + b'"]}' for one in seeds()["image"]]
    items = [b'{"items": ["a text"]}', *pictures]
    kinds["application/json"] += items * 2
    ids = ["t", "i", "x", "none", "%00", "a" * 200, "..%2f"]
    verbs = ["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"]
    statuses: Counter[int] = Counter()
    for _ in range(count):
        one, other = rng.choice(ids[:2] if rng.random() < 0.6 else ids), rng.choice(ids)
        path = rng.choice(PATHS).format(one, other)
        usual = "POST" if path.split("/")[1] in POSTED else "GET"
        method = rng.choice(verbs) if rng.random() < 0.3 else usual
        media = rng.choice(list(kinds))
        data = mutated(rng.choice(kinds[media]), rng)
        if method == "DELETE" and one in ids[:2]:
            continue
        query = {"source": one, "target": other, "space": one, "anchor_set": one.upper()[:9]}
        if rng.random() < 0.5:
            query = {}
        answer = host.http.request(
            method, path, params=query, content=data, headers={"Content-Type": media}
        )
        statuses[answer.status_code] += 1
        if answer.status_code >= 400 and method != "HEAD":
            assert answer.headers["content-type"] == "application/problem+json", path
    return statuses


POSTED = ("translate", "classify", "embed", "stitch", "compatibility", "heads")
PATHS = [
    "/anchor-sets",
    "/anchor-sets/{0}",
    "/spaces",
    "/spaces/{1}x",
    "/spaces/{0}",
    "/spaces/{0}/anchors?target={1}",
    "/anchors/choose?space={0}",
    "/spaces/{0}/anchors/nearest",
    "/heads",
    "/heads/{1}x",
    "/translate",
    "/classify/{0}",
    "/embed/{0}",
    "/embed/{0}",
    "/stitch/{0}/{1}",
    "/stitch/{0}/{0}",
    "/compatibility?anchor_set={0}",
    "/compatibility/{0}/{1}",
    "/health/ready",
    "/info",
    "/workers",
    "/nowhere/{0}",
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The same bytes, mostly with some changed, cut, repeated or moved."""
    changed = bytearray(data)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if at < len(changed):
                changed[at] = rng.randrange(256)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = changed[: rng.randrange(64)]
            case 3:
                changed[at:at] = rng.choice((b"\0", b"NaN", b"1e999", b'"', b"[", b"\xff", b"{}"))
            case _:
                del changed[at : at + rng.randrange(8)]
    return bytes(changed)
