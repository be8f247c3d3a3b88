"""The Open Inference Protocol, spoken by Triton's own client to the real service."""

import asyncio
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.integration.protocols.conftest import TEXTS, WIDTH, World, coded

pytestmark = pytest.mark.models

ASKED = TEXTS[3:15]
HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(world.url.removeprefix("http://")) as found:
        yield found


@pytest.fixture(scope="module")
def rows(world: World) -> NDArray[np.float32]:
    told = world.http.post("/embed/minilm", json={"items": ASKED}).json()
    return np.array(told["embeddings"], np.float32)


def tensor(name: str, values: NDArray[Any], datatype: str, binary: bool) -> triton.InferInput:
    found = triton.InferInput(name, list(values.shape), datatype)
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def objects(values: list[Any]) -> NDArray[np.object_]:
    return np.array(values, object)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16"])
def test_translations_are_those_of_our_own_route(
    world: World,
    client: triton.InferenceServerClient,
    rows: NDArray[np.float32],
    datatype: str,
    binary_in: bool,
    binary_out: bool,
) -> None:
    kind = {"FP32": np.float32, "FP64": np.float64, "FP16": np.float16}[datatype]
    given = tensor("embeddings", rows.astype(kind), datatype, binary_in)
    wanted = [triton.InferRequestedOutput("embeddings", binary_data=binary_out)]
    answer = client.infer("translate:minilm:turned", [given], outputs=wanted, request_id="7")
    body = {"source": "minilm", "target": "turned", "embeddings": rows.tolist()}
    expected = world.http.post("/translate", json=body).json()["embeddings"]
    found = answer.as_numpy("embeddings")
    np.testing.assert_allclose(found, expected, atol=0.02 if datatype == "FP16" else 1e-5)
    assert found.dtype == np.float32
    told = answer.get_response()
    assert (told["id"], told["model_name"]) == ("7", "translate:minilm:turned")
    assert ("data" in told["outputs"][0]) is not binary_out


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_stitches_say_what_our_own_route_says(
    world: World, client: triton.InferenceServerClient, shape: tuple[int, ...], binary_in: bool
) -> None:
    given = tensor("items", objects(ASKED).reshape(shape), "BYTES", binary_in)
    answer = client.infer("stitch:minilm:topic", [given], parameters={"top": 2, "bridge": "ridge"})
    body = {"items": ASKED, "top": 2, "bridge": "ridge"}
    expected = world.http.post("/stitch/minilm/topic", json=body).json()["predictions"]
    labels, scores = answer.as_numpy("labels"), answer.as_numpy("scores")
    assert [[label.decode() for label in row] for row in labels] == [
        [best["label"] for best in told["top"]] for told in expected
    ]
    np.testing.assert_allclose(
        scores, [[best["score"] for best in told["top"]] for told in expected], atol=1e-5
    )
    confidence = [told["confidence"] for told in expected]
    np.testing.assert_allclose(answer.as_numpy("confidence"), confidence, atol=1e-5)


def test_images_as_bytes_and_as_base64(world: World, client: triton.InferenceServerClient) -> None:
    expected = world.http.post(
        "/stitch/lite/shade", json={"items": [coded(image) for image in world.images]}
    ).json()["predictions"]
    for values, binary in ((world.images, True), ([coded(i) for i in world.images], False)):
        answer = client.infer(
            "stitch:lite:shade", [tensor("items", objects(values), "BYTES", binary)]
        )
        best = [row[0].decode() for row in answer.as_numpy("labels")]
        assert best == [told["label"] for told in expected]


def test_embed_and_classify(
    world: World, client: triton.InferenceServerClient, rows: NDArray[np.float32]
) -> None:
    texts = tensor("items", objects(ASKED), "BYTES", True)
    own = client.infer("embed:minilm", [texts]).as_numpy("embeddings")
    np.testing.assert_allclose(own, rows, atol=1e-5)
    turned = client.infer("embed:minilm:turned", [texts]).as_numpy("embeddings")
    for name, given in (("classify:topic", turned), ("classify:minilm:topic", rows)):
        answer = client.infer(name, [tensor("embeddings", given, "FP32", True)])
        body = {"space": "minilm", "embeddings": rows.tolist()}
        expected = world.http.post("/classify/topic", json=body).json()["predictions"]
        best = [row[0].decode() for row in answer.as_numpy("labels")]
        assert best == [told["label"] for told in expected]


def test_the_async_client(world: World, rows: NDArray[np.float32]) -> None:
    async def ask() -> NDArray[np.float32]:
        async with aio.InferenceServerClient(world.url.removeprefix("http://")) as found:
            calls = [
                found.infer("embed:minilm", [tensor("items", objects([text]), "BYTES", True)])
                for text in ASKED
            ]
            answers = await asyncio.gather(*calls)
            return np.concatenate([answer.as_numpy("embeddings") for answer in answers])

    np.testing.assert_allclose(asyncio.run(ask()), rows, atol=1e-5)


def test_server_and_models(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    widths = {"embed:minilm": 384, "embed:minilm:turned": WIDTH, "translate:turned:minilm": 384}
    for name, width in widths.items():
        assert client.is_model_ready(name)
        told = client.get_model_metadata(name)
        assert told["outputs"] == [{"name": "embeddings", "datatype": "FP32", "shape": [-1, width]}]
    told = client.get_model_metadata("stitch:minilm:topic")
    assert told["inputs"] == [{"name": "items", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in told["outputs"]] == ["labels", "scores", "confidence"]
    for unknown in ("embed:nobody", "embed:turned", "minilm", "translate:minilm:lite"):
        assert not client.is_model_ready(unknown)


def test_the_version_that_serves(client: triton.InferenceServerClient) -> None:
    (version,) = client.get_model_metadata("embed:minilm")["versions"]
    assert client.is_model_ready("embed:minilm", version)
    assert client.get_model_metadata("embed:minilm", version)["versions"] == [version]
    texts = tensor("items", objects(ASKED[:1]), "BYTES", True)
    told = client.infer("embed:minilm", [texts], model_version=version).get_response()
    assert told["model_version"] == version
    with pytest.raises(InferenceServerException, match=f"serves version {version}") as refused:
        client.infer("embed:minilm", [texts], model_version="1")
    assert refused.value.status() == "404"


def check(answer: httpx.Response, status: int, said: str) -> None:
    """An error in the protocol's envelope, and nothing else in it."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert said in answer.json()["error"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


GOOD: dict[str, Any] = {"name": "embeddings", "shape": [1, 384], "datatype": "FP32"}
ITEM: dict[str, Any] = {"name": "items", "shape": [1], "datatype": "BYTES"}
FLAT = [0.5] * 384


@pytest.mark.parametrize(
    ("model", "given", "status", "said"),
    [
        ("translate:minilm:turned", GOOD | {"data": [0.5] * 383}, 422, "expected 384 numbers"),
        ("translate:minilm:turned", GOOD | {"data": [FLAT, FLAT]}, 422, "got [2, 384]"),
        ("translate:minilm:turned", GOOD | {"data": [*FLAT[1:], None]}, 422, "data/383"),
        ("translate:minilm:turned", GOOD | {"data": [[*FLAT[1:], True]]}, 422, "data/0/383"),
        ("translate:minilm:turned", GOOD | {"data": [*FLAT[1:], [1]]}, 422, "a list"),
        ("translate:minilm:turned", GOOD | {"data": []}, 422, "empty list"),
        ("translate:minilm:turned", GOOD | {"data": FLAT, "shape": [384]}, 422, "[n, d]"),
        ("translate:minilm:turned", GOOD | {"data": FLAT[:3], "shape": [1, 3]}, 422, "384 wide"),
        ("translate:minilm:turned", GOOD | {"data": [], "shape": [0, 384]}, 422, "empty list"),
        ("translate:minilm:turned", GOOD | {"data": FLAT, "shape": [-1, 384]}, 422, "shape"),
        ("translate:minilm:turned", GOOD | {"data": FLAT, "shape": [True, 384]}, 422, "shape"),
        ("translate:minilm:turned", GOOD | {"data": FLAT, "shape": [1e9, 384]}, 422, "shape"),
        ("translate:minilm:turned", GOOD | {"data": FLAT, "shape": [2**40, 2**40]}, 413, "65536"),
        ("translate:minilm:turned", GOOD | {"data": FLAT, "datatype": "INT64"}, 422, "FP32, FP64"),
        ("translate:minilm:turned", GOOD | {"data": FLAT, "name": "x"}, 422, "'embeddings'"),
        ("translate:minilm:turned", GOOD, 422, "either data or"),
        ("translate:minilm:turned", GOOD | {"data": "abc"}, 422, "list"),
        ("translate:minilm:turned", ITEM | {"data": ["a"]}, 422, "'embeddings'"),
        ("stitch:minilm:topic", GOOD | {"data": FLAT}, 422, "'items'"),
        ("stitch:minilm:topic", ITEM | {"data": ["a"], "datatype": "FP32"}, 422, "BYTES"),
        ("stitch:minilm:topic", ITEM | {"data": ["a", "b"]}, 422, "expected 1 strings"),
        ("stitch:minilm:topic", ITEM | {"data": ["a"] * 41, "shape": [41]}, 413, "at most 40"),
        ("stitch:minilm:topic", ITEM | {"data": [], "shape": [0]}, 422, "at least 1"),
        ("stitch:minilm:topic", ITEM | {"data": ["a"], "shape": []}, 422, "[n, 1]"),
        ("stitch:minilm:topic", ITEM | {"data": ["a"], "shape": [1, 1, 1]}, 422, "[n, 1]"),
        ("stitch:minilm:topic", ITEM | {"data": ["a", 3], "shape": [2]}, 422, "data/1"),
        ("stitch:minilm:topic", ITEM | {"data": ["a", " "], "shape": [2]}, 422, "data/1"),
        ("stitch:minilm:topic", ITEM | {"data": ["word " * 600]}, 422, "data/0"),
        ("stitch:lite:shade", ITEM | {"data": ["*"]}, 422, "base64"),
        ("stitch:lite:shade", ITEM | {"data": ["AAAA"]}, 415, "data/0"),
        ("embed:turned", ITEM | {"data": ["a"]}, 404, "no encoder"),
        ("embed:nobody", ITEM | {"data": ["a"]}, 404, "nobody"),
        ("stitch:minilm:nobody", ITEM | {"data": ["a"]}, 404, "nobody"),
        ("minilm", ITEM | {"data": ["a"]}, 404, "embed:space"),
        ("embed:a b", ITEM | {"data": ["a"]}, 422, "a b"),
        ("translate:minilm:lite", GOOD | {"data": FLAT}, 409, "same anchor set"),
    ],
)
def test_bad_tensors(
    world: World, model: str, given: dict[str, Any], status: int, said: str
) -> None:
    answer = world.http.post(f"/v2/models/{model}/infer", json={"inputs": [given]})
    check(answer, status, said)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"parameters": {"bridge": "magic"}}, "/parameters/bridge"),
        ({"parameters": {"sequence_id": 1}}, "/parameters/sequence_id"),
        ({"parameters": {"timeout": 0}}, "/parameters/timeout"),
        ({"outputs": [{"name": "logits"}]}, "labels, scores, confidence"),
        ({"outputs": [{"name": "labels", "parameters": {"classification": 3}}]}, "classification"),
        ({"inputs": []}, "/inputs"),
        ({"inputs": [ITEM | {"data": ["a"]}] * 2}, "expected one input"),
        ({"id": 7}, "/id"),
        ({"extra": 1}, "/extra"),
    ],
)
def test_bad_requests(world: World, more: dict[str, Any], said: str) -> None:
    body = {"inputs": [ITEM | {"data": ["a"]}], **more}
    check(world.http.post("/v2/models/stitch:minilm:topic/infer", json=body), 422, said)


def framed(head: dict[str, Any] | bytes, rest: bytes, length: str | None = None) -> dict[str, Any]:
    """A request with the binary extension, as it is or as it should not be."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return {"content": text + rest, "headers": {HEADER: length or str(len(text))}}


def sized(tensor: dict[str, Any], *sizes: Any) -> dict[str, Any]:
    return {"inputs": [tensor | {"parameters": {"binary_data_size": size}} for size in sizes]}


ROW = np.full(384, 0.5, "<f4").tobytes()
NAN = np.array([np.nan, *FLAT[1:]], "<f4").tobytes()
TO_TURNED = "/v2/models/translate:minilm:turned/infer"


FRAMING = ("adds up", "1537 stand", HEADER, "expected JSON")
"""How messages begin where the body is not one of the protocol: 400, as for bad JSON."""


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (framed(sized(GOOD, 1536), ROW[:-1]), "adds up to 1536 bytes, 1535 stand"),
        (framed(sized(GOOD, 1536), ROW + b"x"), "1537 stand"),
        (framed(sized(GOOD, 1535), ROW[:-1]), "expected 1536 bytes"),
        (framed(sized(GOOD, 0), b""), "expected 1536 bytes"),
        (framed(sized(GOOD, -1), ROW), "binary_data_size"),
        (framed(sized(GOOD, "1536"), ROW), "binary_data_size"),
        (framed(sized(GOOD, 2**63), ROW), "binary_data_size"),
        (framed(sized(GOOD, 2**62), ROW), "adds up to"),
        (framed(sized(GOOD, 768, 768), ROW), "expected one input"),
        (framed(sized(GOOD, 1536), NAN), "inputs/0/data/0/0"),
        (framed(sized(GOOD | {"data": FLAT}, 1536), ROW), "either data or"),
        (framed({"inputs": [GOOD | {"data": FLAT}]}, ROW), "adds up to 0 bytes"),
        (framed(sized(GOOD | {"shape": [0, 384]}, 0), b""), "[0, 384]"),
        (framed(sized(GOOD, 1536), ROW, "1e3"), HEADER),
        (framed(sized(GOOD, 1536), ROW, "-1"), HEADER),
        (framed(sized(GOOD, 1536), ROW, "9" * 30), HEADER),
        (framed(sized(GOOD, 1536), ROW, "0"), "expected JSON"),
        (framed(sized(GOOD, 1536), ROW, "20"), "expected JSON"),
        (framed(sized(GOOD, 1536), ROW, "200"), "expected JSON"),
        (framed(b"[1]", b""), "a JSON object, got a list"),
        (framed(b"", b""), "expected JSON"),
        (framed(b'{"id": "\\ud800", "inputs": []}', b""), ""),
    ],
)
def test_bytes_that_do_not_fit(world: World, request_: dict[str, Any], said: str) -> None:
    answer = world.http.post(TO_TURNED, **request_)
    check(answer, 400 if said.startswith(FRAMING) else 422, said)


def strings(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


@pytest.mark.parametrize(
    ("count", "raw", "said"),
    [
        (2, strings(b"a"), "expected 2 strings"),
        (1, strings(b"a", b"b"), "5 bytes that are none"),
        (1, b"\0\0\0", "3 bytes that are none"),
        (1, struct.pack("<I", 2**32 - 1) + b"a", "expected 1 strings"),
        (2, strings(b"a") + b"\1\0", "2 bytes that are none"),
        (2, strings(b"a", b""), "data/1"),
        (2, strings(b"a", b"\xff\xfe"), "valid Unicode"),
        (41, strings(*[b"a"] * 41), "at most 40"),
    ],
)
def test_strings_that_do_not_fit(world: World, count: int, raw: bytes, said: str) -> None:
    request_ = framed(sized(ITEM | {"shape": [count]}, len(raw)), raw)
    answer = world.http.post("/v2/models/stitch:minilm:topic/infer", **request_)
    check(answer, 413 if count > 40 else 422, said)


def test_sizes_types_paths_and_deadlines(world: World) -> None:
    check(world.http.post(TO_TURNED, content=b" " * 2_100_000), 413, "max_body_bytes")
    compressed = {"Content-Encoding": "gzip"}
    check(world.http.post(TO_TURNED, content=b"x", headers=compressed), 415, "gzip")
    check(world.http.post(TO_TURNED, data={"a": "b"}), 415, "octet-stream")
    check(world.http.get("/v2/models"), 404, "Not Found")
    check(world.http.get(TO_TURNED), 405, "Method Not Allowed")
    body = {"inputs": [ITEM | {"data": ["a"]}], "parameters": {"timeout": 1}}
    check(world.http.post("/v2/models/embed:minilm/infer", json=body), 504, "seconds")


def test_what_the_schema_says_of_both_protocols(world: World) -> None:
    paths = world.http.get("/openapi.json").json()["paths"]
    for path, name in (("/v1/embeddings", "OpenAIError"), (TO_TURNED, "InferenceError")):
        template = path.replace("translate:minilm:turned", "{model}")
        told = paths[template]["post"]["responses"]["422" if name == "InferenceError" else "400"][
            "content"
        ]
        assert told["application/json"]["schema"]["$ref"].endswith(name)
        assert paths[template]["post"]["requestBody"]["content"]["application/json"]["example"]
