"""The Open Inference Protocol: Triton's client and raw HTTP against a running service."""

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

from tests.integration.protocols.conftest import TEXTS, WIDTH, World, to_base64

pytestmark = pytest.mark.models

INPUTS = TEXTS[3:15]
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(world.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="module")
def rows(world: World) -> NDArray[np.float32]:
    body = world.http.post("/embed/minilm", json={"items": INPUTS}).json()
    return np.array(body["embeddings"], np.float32)


def tensor(name: str, values: NDArray[Any], datatype: str, binary: bool) -> triton.InferInput:
    result = triton.InferInput(name, list(values.shape), datatype)
    result.set_data_from_numpy(values, binary_data=binary)
    return result


def objects(values: list[Any]) -> NDArray[np.object_]:
    return np.array(values, object)


def best_labels(result: triton.InferResult) -> list[str]:
    return [row[0].decode() for row in result.as_numpy("labels")]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16"])
def test_translate_model_of_any_datatype_equals_translate_route(
    world: World,
    client: triton.InferenceServerClient,
    rows: NDArray[np.float32],
    datatype: str,
    binary_in: bool,
    binary_out: bool,
) -> None:
    dtype = {"FP32": np.float32, "FP64": np.float64, "FP16": np.float16}[datatype]
    inputs = [tensor("embeddings", rows.astype(dtype), datatype, binary_in)]
    outputs = [triton.InferRequestedOutput("embeddings", binary_data=binary_out)]
    result = client.infer("translate:minilm:turned", inputs, outputs=outputs, request_id="7")
    body = {"source": "minilm", "target": "turned", "embeddings": rows.tolist()}
    expected = world.http.post("/translate", json=body).json()["embeddings"]
    translated = result.as_numpy("embeddings")
    np.testing.assert_allclose(translated, expected, atol=0.02 if datatype == "FP16" else 1e-5)
    assert translated.dtype == np.float32
    response = result.get_response()
    assert (response["id"], response["model_name"]) == ("7", "translate:minilm:turned")
    assert ("data" in response["outputs"][0]) is not binary_out


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_stitch_model_of_texts_equals_stitch_route(
    world: World, client: triton.InferenceServerClient, shape: tuple[int, ...], binary: bool
) -> None:
    inputs = [tensor("items", objects(INPUTS).reshape(shape), "BYTES", binary)]
    parameters = {"top": 2, "bridge": "ridge"}
    result = client.infer("stitch:minilm:topic", inputs, parameters=parameters)
    body = {"items": INPUTS, **parameters}
    expected = world.http.post("/stitch/minilm/topic", json=body).json()["predictions"]
    labels, scores = result.as_numpy("labels"), result.as_numpy("scores")
    assert [[label.decode() for label in row] for row in labels] == [
        [best["label"] for best in prediction["top"]] for prediction in expected
    ]
    np.testing.assert_allclose(
        scores,
        [[best["score"] for best in prediction["top"]] for prediction in expected],
        atol=1e-5,
    )
    confidences = [prediction["confidence"] for prediction in expected]
    np.testing.assert_allclose(result.as_numpy("confidence"), confidences, atol=1e-5)


def test_stitch_model_of_images_equals_stitch_route(
    world: World, client: triton.InferenceServerClient
) -> None:
    encoded = [to_base64(image) for image in world.images]
    body = world.http.post("/stitch/lite/shade", json={"items": encoded}).json()
    expected = [prediction["label"] for prediction in body["predictions"]]
    for values, binary in ((world.images, True), (encoded, False)):
        inputs = [tensor("items", objects(values), "BYTES", binary)]
        assert best_labels(client.infer("stitch:lite:shade", inputs)) == expected


def test_embed_and_classify_models_equal_their_routes(
    world: World, client: triton.InferenceServerClient, rows: NDArray[np.float32]
) -> None:
    texts = [tensor("items", objects(INPUTS), "BYTES", True)]
    embedded = client.infer("embed:minilm", texts).as_numpy("embeddings")
    np.testing.assert_allclose(embedded, rows, atol=1e-5)
    translated = client.infer("embed:minilm:turned", texts).as_numpy("embeddings")
    body = {"space": "minilm", "embeddings": rows.tolist()}
    predictions = world.http.post("/classify/topic", json=body).json()["predictions"]
    expected = [prediction["label"] for prediction in predictions]
    for name, values in (("classify:topic", translated), ("classify:minilm:topic", rows)):
        result = client.infer(name, [tensor("embeddings", values, "FP32", True)])
        assert best_labels(result) == expected


def test_embeddings_of_a_wrong_length_are_counted_in_a_header(
    world: World, rows: NDArray[np.float32]
) -> None:
    # The model's own files scale its embeddings to unit length.
    for values, count in ((rows, None), (5 * rows, str(len(rows)))):
        spec = {"name": "embeddings", "datatype": "FP32", "shape": list(values.shape)}
        body = {"inputs": [spec | {"data": values.tolist()}]}
        response = world.http.post("/v2/models/translate:minilm:turned/infer", json=body)
        assert response.status_code == 200, response.text
        assert response.headers.get("stitchwork-mismatched-lengths") == count


def test_async_client_with_concurrent_requests_gets_each_result(
    world: World, rows: NDArray[np.float32]
) -> None:
    async def run() -> NDArray[np.float32]:
        async with aio.InferenceServerClient(world.url.removeprefix("http://")) as client:
            calls = [
                client.infer("embed:minilm", [tensor("items", objects([text]), "BYTES", True)])
                for text in INPUTS
            ]
            results = await asyncio.gather(*calls)
            return np.concatenate([result.as_numpy("embeddings") for result in results])

    np.testing.assert_allclose(asyncio.run(run()), rows, atol=1e-5)


def test_server_metadata_names_the_binary_extension(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]


@pytest.mark.parametrize(
    ("name", "width"),
    [("embed:minilm", 384), ("embed:minilm:turned", WIDTH), ("translate:turned:minilm", 384)],
)
def test_model_metadata_of_embeddings_has_their_width(
    client: triton.InferenceServerClient, name: str, width: int
) -> None:
    assert client.is_model_ready(name)
    outputs = client.get_model_metadata(name)["outputs"]
    assert outputs == [{"name": "embeddings", "datatype": "FP32", "shape": [-1, width]}]


def test_model_metadata_of_a_head_names_the_parts_of_predictions(
    client: triton.InferenceServerClient,
) -> None:
    metadata = client.get_model_metadata("stitch:minilm:topic")
    assert metadata["inputs"] == [{"name": "items", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in metadata["outputs"]] == ["labels", "scores", "confidence"]


@pytest.mark.parametrize(
    "name", ["embed:nobody", "embed:turned", "minilm", "translate:minilm:lite"]
)
def test_model_readiness_of_an_unusable_model_is_false(
    client: triton.InferenceServerClient, name: str
) -> None:
    assert not client.is_model_ready(name)


def test_model_version_that_is_current_is_served(client: triton.InferenceServerClient) -> None:
    (version,) = client.get_model_metadata("embed:minilm")["versions"]
    assert client.is_model_ready("embed:minilm", version)
    assert client.get_model_metadata("embed:minilm", version)["versions"] == [version]
    texts = [tensor("items", objects(INPUTS[:1]), "BYTES", True)]
    response = client.infer("embed:minilm", texts, model_version=version).get_response()
    assert response["model_version"] == version


def test_model_version_that_is_not_current_is_refused(
    client: triton.InferenceServerClient,
) -> None:
    (version,) = client.get_model_metadata("embed:minilm")["versions"]
    texts = [tensor("items", objects(INPUTS[:1]), "BYTES", True)]
    message = f"current version of model embed:minilm is {version}"
    with pytest.raises(InferenceServerException, match=message) as error:
        client.infer("embed:minilm", texts, model_version="1")
    assert error.value.status() == "404"


def check_error(response: httpx.Response, status: int, message: str) -> None:
    """Check that a response is an error in the protocol's envelope, with nothing else in it."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]


ROW_SPEC: dict[str, Any] = {"name": "embeddings", "shape": [1, 384], "datatype": "FP32"}
ITEM_SPEC: dict[str, Any] = {"name": "items", "shape": [1], "datatype": "BYTES"}
FLAT = [0.5] * 384


@pytest.mark.parametrize(
    ("model", "spec", "status", "message"),
    [
        ("translate:minilm:turned", ROW_SPEC | {"data": [0.5] * 383}, 422, "expected 384 numbers"),
        ("translate:minilm:turned", ROW_SPEC | {"data": [FLAT, FLAT]}, 422, "got [2, 384]"),
        ("translate:minilm:turned", ROW_SPEC | {"data": [*FLAT[1:], None]}, 422, "data/383"),
        ("translate:minilm:turned", ROW_SPEC | {"data": [[*FLAT[1:], True]]}, 422, "data/0/383"),
        ("translate:minilm:turned", ROW_SPEC | {"data": [*FLAT[1:], [1]]}, 422, "a list"),
        ("translate:minilm:turned", ROW_SPEC | {"data": []}, 422, "empty list"),
        ("translate:minilm:turned", ROW_SPEC | {"data": FLAT, "shape": [384]}, 422, "[n, d]"),
        (
            "translate:minilm:turned",
            ROW_SPEC | {"data": FLAT[:3], "shape": [1, 3]},
            422,
            "384 numbers",
        ),
        ("translate:minilm:turned", ROW_SPEC | {"data": [], "shape": [0, 384]}, 422, "empty list"),
        ("translate:minilm:turned", ROW_SPEC | {"data": FLAT, "shape": [-1, 384]}, 422, "shape"),
        ("translate:minilm:turned", ROW_SPEC | {"data": FLAT, "shape": [True, 384]}, 422, "shape"),
        ("translate:minilm:turned", ROW_SPEC | {"data": FLAT, "shape": [1e9, 384]}, 422, "shape"),
        (
            "translate:minilm:turned",
            ROW_SPEC | {"data": FLAT, "shape": [2**40, 2**40]},
            413,
            "65536",
        ),
        (
            "translate:minilm:turned",
            ROW_SPEC | {"data": FLAT, "datatype": "INT64"},
            422,
            "FP32, FP64",
        ),
        ("translate:minilm:turned", ROW_SPEC, 422, "either data or"),
        ("translate:minilm:turned", ROW_SPEC | {"data": "abc"}, 422, "list"),
        ("translate:minilm:turned", ITEM_SPEC | {"data": ["a"]}, 422, "FP32, FP64"),
        ("stitch:minilm:topic", ROW_SPEC | {"data": FLAT}, 422, "BYTES"),
        ("stitch:minilm:topic", ITEM_SPEC | {"data": ["a"], "datatype": "FP32"}, 422, "BYTES"),
        ("stitch:minilm:topic", ITEM_SPEC | {"data": ["a", "b"]}, 422, "expected 1 strings"),
        ("stitch:minilm:topic", ITEM_SPEC | {"data": ["a"] * 41, "shape": [41]}, 413, "at most 40"),
        ("stitch:minilm:topic", ITEM_SPEC | {"data": [], "shape": [0]}, 422, "at least 1"),
        ("stitch:minilm:topic", ITEM_SPEC | {"data": ["a"], "shape": []}, 422, "[n, 1]"),
        ("stitch:minilm:topic", ITEM_SPEC | {"data": ["a"], "shape": [1, 1, 1]}, 422, "[n, 1]"),
        ("stitch:minilm:topic", ITEM_SPEC | {"data": ["a", 3], "shape": [2]}, 422, "data/1"),
        ("stitch:minilm:topic", ITEM_SPEC | {"data": ["a", " "], "shape": [2]}, 422, "data/1"),
        ("stitch:minilm:topic", ITEM_SPEC | {"data": ["word " * 600]}, 422, "data/0"),
        ("stitch:lite:shade", ITEM_SPEC | {"data": ["*"]}, 422, "base64"),
        ("stitch:lite:shade", ITEM_SPEC | {"data": ["AAAA"]}, 415, "data/0"),
        ("embed:turned", ITEM_SPEC | {"data": ["a"]}, 404, "no encoder"),
        ("embed:nobody", ITEM_SPEC | {"data": ["a"]}, 404, "nobody"),
        ("stitch:minilm:nobody", ITEM_SPEC | {"data": ["a"]}, 404, "nobody"),
        ("minilm", ITEM_SPEC | {"data": ["a"]}, 404, "embed:space"),
        ("embed:a b", ITEM_SPEC | {"data": ["a"]}, 422, "a b"),
        ("translate:minilm:lite", ROW_SPEC | {"data": FLAT}, 409, "same anchor set"),
    ],
)
def test_infer_with_an_invalid_tensor_is_refused(
    world: World, model: str, spec: dict[str, Any], status: int, message: str
) -> None:
    response = world.http.post(f"/v2/models/{model}/infer", json={"inputs": [spec]})
    check_error(response, status, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"bridge": "magic"}}, "/parameters/bridge"),
        ({"parameters": {"timeout": 0}}, "/parameters/timeout"),
        ({"outputs": [{"name": "logits"}]}, "labels, scores, confidence"),
        ({"outputs": [{"name": "labels", "parameters": {"classification": 3}}]}, "classification"),
        ({"inputs": []}, "/inputs"),
        ({"inputs": [ITEM_SPEC | {"data": ["a"]}] * 2}, "expected one input"),
        ({"id": 7}, "/id"),
        (
            {"outputs": [{"name": "labels", "parameters": {"shared_memory_region": "r"}}]},
            "/outputs/0/parameters/shared_memory_region",
        ),
    ],
)
def test_infer_with_invalid_fields_is_refused(
    world: World, fields: dict[str, Any], message: str
) -> None:
    body = {"inputs": [ITEM_SPEC | {"data": ["a"]}], **fields}
    response = world.http.post("/v2/models/stitch:minilm:topic/infer", json=body)
    check_error(response, 422, message)


def test_null_means_absent_and_unknown_fields_of_other_clients_are_ignored(world: World) -> None:
    spec = ITEM_SPEC | {"name": "input-0", "data": ["a"], "parameters": {"content_type": "str"}}
    body = {
        "model_name": "stitch:minilm:topic",
        "id": None,
        "parameters": {"priority": 1, "sequence_id": 7, "sequence_start": True, "timeout": None},
        "inputs": [spec],
        "outputs": [{"name": "labels", "datatype": "BYTES", "parameters": None}],
    }
    response = world.http.post("/v2/models/stitch:minilm:topic/infer", json=body)
    assert response.status_code == 200, response.text
    plain = {"inputs": [ITEM_SPEC | {"data": ["a"], "parameters": None}], "outputs": None}
    expected = world.http.post("/v2/models/stitch:minilm:topic/infer", json=plain).json()
    assert response.json()["outputs"] == expected["outputs"][:1]
    assert "id" not in response.json()


def test_image_as_a_data_uri_is_an_image(world: World) -> None:
    plain = to_base64(world.images[0])
    labels = []
    for image in (plain, "data:image/png;base64," + plain):
        body = {"inputs": [ITEM_SPEC | {"data": [image]}]}
        response = world.http.post("/v2/models/stitch:lite:shade/infer", json=body)
        assert response.status_code == 200, response.text
        labels.append(response.json()["outputs"][0]["data"])
    assert labels[0] == labels[1]


def binary_request(
    header: dict[str, Any] | bytes, rest: bytes, length: str | None = None
) -> dict[str, Any]:
    """A request with the binary extension; `length` is what its header says of the JSON."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return {"content": data + rest, "headers": {JSON_LENGTH_HEADER: length or str(len(data))}}


def sized(spec: dict[str, Any], *sizes: Any) -> dict[str, Any]:
    return {"inputs": [spec | {"parameters": {"binary_data_size": size}} for size in sizes]}


ROW = np.full(384, 0.5, "<f4").tobytes()
NAN = np.array([np.nan, *FLAT[1:]], "<f4").tobytes()
TO_TURNED = "/v2/models/translate:minilm:turned/infer"


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (
            binary_request(sized(ROW_SPEC, 1536), ROW[:-1]),
            400,
            "expected 1536 bytes after the JSON",
        ),
        (binary_request(sized(ROW_SPEC, 1536), ROW + b"x"), 400, "got 1537"),
        (binary_request(sized(ROW_SPEC, 1535), ROW[:-1]), 422, "expected 1536 bytes"),
        (binary_request(sized(ROW_SPEC, 0), b""), 422, "expected 1536 bytes"),
        (binary_request(sized(ROW_SPEC, -1), ROW), 422, "binary_data_size"),
        (binary_request(sized(ROW_SPEC, "1536"), ROW), 422, "binary_data_size"),
        (binary_request(sized(ROW_SPEC, 2**63), ROW), 422, "binary_data_size"),
        (binary_request(sized(ROW_SPEC, 2**62), ROW), 400, "bytes after the JSON"),
        (binary_request(sized(ROW_SPEC, 768, 768), ROW), 422, "expected one input"),
        (binary_request(sized(ROW_SPEC, 1536), NAN), 422, "inputs/0/data/0/0"),
        (binary_request(sized(ROW_SPEC | {"data": FLAT}, 1536), ROW), 422, "either data or"),
        (binary_request({"inputs": [ROW_SPEC | {"data": FLAT}]}, ROW), 400, "expected 0 bytes"),
        (binary_request(sized(ROW_SPEC | {"shape": [0, 384]}, 0), b""), 422, "[0, 384]"),
        (binary_request(sized(ROW_SPEC, 1536), ROW, "1e3"), 400, JSON_LENGTH_HEADER),
        (binary_request(sized(ROW_SPEC, 1536), ROW, "-1"), 400, JSON_LENGTH_HEADER),
        (binary_request(sized(ROW_SPEC, 1536), ROW, "9" * 30), 400, JSON_LENGTH_HEADER),
        (binary_request(sized(ROW_SPEC, 1536), ROW, "0"), 400, "expected JSON"),
        (binary_request(sized(ROW_SPEC, 1536), ROW, "20"), 400, "expected JSON"),
        (binary_request(sized(ROW_SPEC, 1536), ROW, "200"), 400, "expected JSON"),
        (binary_request(b"[1]", b""), 422, "a JSON object, got a list"),
        (binary_request(b"", b""), 400, "expected JSON"),
        (binary_request(b'{"id": "\\ud800", "inputs": []}', b""), 422, ""),
    ],
)
def test_infer_with_invalid_bytes_is_refused(
    world: World, request_: dict[str, Any], status: int, message: str
) -> None:
    check_error(world.http.post(TO_TURNED, **request_), status, message)


def strings(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


@pytest.mark.parametrize(
    ("count", "raw", "message"),
    [
        (2, strings(b"a"), "expected 2 strings"),
        (1, strings(b"a", b"b"), "5 further bytes"),
        (1, b"\0\0\0", "3 further bytes"),
        (1, struct.pack("<I", 2**32 - 1) + b"a", "expected 1 strings"),
        (2, strings(b"a") + b"\1\0", "2 further bytes"),
        (2, strings(b"a", b""), "data/1"),
        (2, strings(b"a", b"\xff\xfe"), "valid Unicode"),
        (41, strings(*[b"a"] * 41), "at most 40"),
    ],
)
def test_infer_with_invalid_strings_is_refused(
    world: World, count: int, raw: bytes, message: str
) -> None:
    request_ = binary_request(sized(ITEM_SPEC | {"shape": [count]}, len(raw)), raw)
    response = world.http.post("/v2/models/stitch:minilm:topic/infer", **request_)
    check_error(response, 413 if count > 40 else 422, message)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ({"content": b" " * 2_100_000}, 413, "max_body_bytes"),
        ({"content": b"x", "headers": {"Content-Encoding": "br"}}, 415, "gzip"),
        ({"data": {"a": "b"}}, 415, "octet-stream"),
    ],
    ids=["too large", "compressed", "form"],
)
def test_infer_with_an_unsupported_body_is_refused(
    world: World, arguments: dict[str, Any], status: int, message: str
) -> None:
    check_error(world.http.post(TO_TURNED, **arguments), status, message)


def test_unknown_path_and_method_have_the_envelope_of_the_protocol(world: World) -> None:
    check_error(world.http.get("/v2/models"), 404, "Not Found")
    check_error(world.http.get(TO_TURNED), 405, "Method Not Allowed")


def test_infer_after_its_timeout_is_refused(world: World) -> None:
    body = {"inputs": [ITEM_SPEC | {"data": ["a"]}], "parameters": {"timeout": 1}}
    response = world.http.post("/v2/models/embed:minilm/infer", json=body)
    check_error(response, 504, "seconds")


@pytest.mark.parametrize(
    ("path", "status", "schema"),
    [
        ("/v1/embeddings", "400", "OpenAIError"),
        ("/v2/models/{model}/infer", "422", "InferenceError"),
    ],
)
def test_openapi_of_a_protocol_has_its_errors_and_an_example(
    world: World, path: str, status: str, schema: str
) -> None:
    operation = world.http.get("/openapi.json").json()["paths"][path]["post"]
    content = operation["responses"][status]["content"]
    assert content["application/json"]["schema"]["$ref"].endswith(schema)
    assert operation["requestBody"]["content"]["application/json"]["example"]
