"""The gRPC API of the Open Inference Protocol: Triton's client against a running service."""

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.integration.protocols.conftest import TEXTS, WIDTH, World, to_base64
from tests.support import machine

pytestmark = [
    pytest.mark.models,
    # Triton's generated code is of protobuf 6, which protobuf 7 runs.
    pytest.mark.filterwarnings("ignore:Protobuf gencode version"),
]

INPUTS = TEXTS[3:15]


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(world.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def stub(world: World) -> Iterator[Any]:
    with grpc.insecure_channel(world.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def rows(world: World) -> NDArray[np.float32]:
    body = world.http.post("/embed/minilm", json={"items": INPUTS}).json()
    return np.array(body["embeddings"], np.float32)


def tensor(name: str, values: NDArray[Any], datatype: str) -> triton.InferInput:
    result = triton.InferInput(name, list(values.shape), datatype)
    result.set_data_from_numpy(values)
    return result


def texts(values: Sequence[str | bytes]) -> list[triton.InferInput]:
    return [tensor("items", np.array(list(values), object), "BYTES")]


def best_labels(result: triton.InferResult) -> list[str]:
    return [row[0].decode() for row in result.as_numpy("labels")]


def embeddings_message(rows: NDArray[Any], **fields: Any) -> Any:
    """A message with embeddings as raw contents, or with other fields."""
    defaults = {"name": "embeddings", "datatype": "FP32", "shape": rows.shape}
    spec = service_pb2.ModelInferRequest().InferInputTensor(**defaults | fields.pop("input", {}))
    request = {
        "model_name": "translate:minilm:turned",
        "inputs": [spec],
        "raw_input_contents": [rows.astype("<f4").tobytes()],
    }
    return service_pb2.ModelInferRequest(**request | fields)


def test_stitch_model_of_texts_equals_stitch_route(
    world: World, client: triton.InferenceServerClient
) -> None:
    result = client.infer(
        "stitch:minilm:topic",
        texts(INPUTS),
        request_id="7",
        parameters={"top": 2, "bridge": "ridge"},
        client_timeout=machine.deadline(60),
    )
    body = {"items": INPUTS, "top": 2, "bridge": "ridge"}
    expected = world.http.post("/stitch/minilm/topic", json=body).json()["predictions"]
    assert best_labels(result) == [prediction["label"] for prediction in expected]
    assert result.as_numpy("labels").shape == result.as_numpy("scores").shape == (len(INPUTS), 2)
    confidences = [prediction["confidence"] for prediction in expected]
    np.testing.assert_allclose(result.as_numpy("confidence"), confidences, atol=1e-5)
    response = result.get_response()
    assert (response.id, response.model_name) == ("7", "stitch:minilm:topic")


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16", "BF16"])
def test_translate_model_of_any_datatype_equals_translate_route(
    world: World, client: triton.InferenceServerClient, rows: NDArray[np.float32], datatype: str
) -> None:
    if datatype == "BF16":
        inputs = triton.InferInput("embeddings", list(rows.shape), datatype)
        bits = (rows.view(np.uint32) >> 16).astype("<u2")
        inputs._raw_content = bits.tobytes()
        sent = (bits.astype(np.uint32) << 16).view(np.float32)
    else:
        dtype = {"FP32": np.float32, "FP64": np.float64, "FP16": np.float16}[datatype]
        sent = rows.astype(dtype)
        inputs = tensor("embeddings", sent, datatype)
    outputs = [triton.InferRequestedOutput("embeddings")]
    result = client.infer("translate:minilm:turned", [inputs], outputs=outputs)
    body = {"source": "minilm", "target": "turned", "embeddings": sent.astype(float).tolist()}
    expected = world.http.post("/translate", json=body).json()["embeddings"]
    np.testing.assert_allclose(result.as_numpy("embeddings"), expected, atol=1e-5)
    assert result.as_numpy("embeddings").shape == (len(rows), WIDTH)


def test_typed_contents_equal_raw_contents(stub: Any, rows: NDArray[np.float32]) -> None:
    raw = stub.ModelInfer(embeddings_message(rows))
    for datatype, field in (("FP32", "fp32_contents"), ("FP64", "fp64_contents")):
        values = {"contents": {field: rows.ravel().tolist()}, "datatype": datatype}
        typed = stub.ModelInfer(embeddings_message(rows, input=values, raw_input_contents=[]))
        # The response has the form of the request.
        assert not typed.raw_output_contents
        values = typed.outputs[0].contents.fp32_contents
        assert np.array(values, "<f4").tobytes() == raw.raw_output_contents[0]
    contents = {"bytes_contents": [text.encode() for text in INPUTS]}
    spec = {"name": "text", "datatype": "BYTES", "shape": [len(INPUTS), 1], "contents": contents}
    message = service_pb2.ModelInferRequest(model_name="embed:minilm", inputs=[spec])
    embedded = np.array(stub.ModelInfer(message).outputs[0].contents.fp32_contents)
    np.testing.assert_allclose(embedded.reshape(rows.shape), rows, atol=1e-5)


def test_stitch_model_of_images_equals_stitch_route(
    world: World, client: triton.InferenceServerClient
) -> None:
    body = {"items": [to_base64(image) for image in world.images]}
    predictions = world.http.post("/stitch/lite/shade", json=body).json()["predictions"]
    expected = [prediction["label"] for prediction in predictions]
    assert best_labels(client.infer("stitch:lite:shade", texts(world.images))) == expected


def test_large_messages_are_parsed_beside_the_event_loop(
    stub: Any, rows: NDArray[np.float32]
) -> None:
    many = np.tile(rows, (20, 1))
    raw = stub.ModelInfer(embeddings_message(many))
    contents = {"contents": {"fp32_contents": many.ravel().tolist()}}
    typed = stub.ModelInfer(embeddings_message(many, input=contents, raw_input_contents=[]))
    values = typed.outputs[0].contents.fp32_contents
    np.testing.assert_allclose(values, np.frombuffer(raw.raw_output_contents[0], "<f4"), atol=1e-6)


def test_every_argument_of_tritons_client_is_accepted(
    world: World, client: triton.InferenceServerClient
) -> None:
    before = ignored_fields(world)
    result = client.infer(
        "stitch:minilm:topic",
        texts(INPUTS),
        model_version="",
        outputs=[
            triton.InferRequestedOutput("labels"),
            triton.InferRequestedOutput("scores", class_count=2),
        ],
        request_id="9",
        sequence_id=5,
        sequence_start=True,
        sequence_end=True,
        priority=3,
        timeout=int(machine.deadline(60) * 1e6),
        client_timeout=machine.deadline(60),
        headers={"x-request-id": "triton-grpc"},
        compression_algorithm="gzip",
        parameters={"unknown": "value", "top": 3},
    )
    classes = [[text.decode() for text in row] for row in result.as_numpy("scores")]
    assert len(classes) == len(INPUTS)
    best = best_labels(result)
    for row, label in zip(classes, best, strict=True):
        scores, _, labels = zip(*(text.split(":", 2) for text in row), strict=True)
        assert labels[0] == label
        assert float(scores[0]) >= float(scores[1])
    # The sequence's three parameters, the priority and the unknown one.
    assert ignored_fields(world) == before + 5


def ignored_fields(world: World) -> float:
    lines = world.http.get("/metrics").text.splitlines()
    name = "stitchwork_ignored_fields_total "
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def test_metadata_readiness_configuration_and_statistics(
    world: World, client: triton.InferenceServerClient, rows: NDArray[np.float32]
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "stitchwork"
    name = "classify:minilm:topic"
    assert client.is_model_ready(name)
    metadata = client.get_model_metadata(name, as_json=True)
    rest = world.http.get(f"/v2/models/{name}").json()
    assert metadata["versions"] == rest["versions"]
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["labels", "scores", "confidence"]
    config = client.get_model_config(name, as_json=True)["config"]
    assert config["input"] == [
        {"name": "embeddings", "data_type": "TYPE_FP32", "dims": ["-1", "384"]}
    ]
    rest = world.http.get(f"/v2/models/{name}/config").json()
    assert [entry["data_type"] for entry in config["output"]] == [
        entry["data_type"] for entry in rest["output"]
    ]

    def counts() -> Any:
        return client.get_inference_statistics(name).model_stats[0]

    before = counts()
    client.infer(name, [tensor("embeddings", rows, "FP32")])
    with pytest.raises(InferenceServerException):
        client.infer(name, [tensor("embeddings", rows[:, :5], "FP32")])
    after = counts()
    assert after.inference_count == before.inference_count + len(rows)
    assert after.execution_count == before.execution_count + 1
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    assert name in {entry.name for entry in client.get_inference_statistics().model_stats}


def test_index_lists_models_whose_names_and_versions_are_those_of_metadata(
    world: World, client: triton.InferenceServerClient
) -> None:
    index = client.get_model_repository_index()
    names = {model.name for model in index.models}
    expected = {"embed:minilm", "embed:minilm:turned", "classify:topic", "classify:minilm:topic"}
    assert expected | {"stitch:minilm:topic", "translate:turned:minilm"} <= names
    assert "embed:turned" not in names
    rest = world.http.post("/v2/repository/index", content=b"").json()
    listed = {model["name"]: model["version"] for model in rest}
    assert listed == {model.name: model.version for model in index.models}
    for name in expected:
        assert world.http.get(f"/v2/models/{name}").json()["versions"] == [listed[name]]
    assert {model.state for model in index.models} <= {"READY", "UNAVAILABLE"}


def test_stream_answers_each_message_in_order(
    world: World, client: triton.InferenceServerClient
) -> None:
    results: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: results.put((result, error)))
    for number, model in enumerate(["stitch:minilm:topic", "stitch:minilm:no", "embed:minilm"]):
        client.async_stream_infer(model, texts(INPUTS[: number + 1]), request_id=str(number))
    received = [results.get(timeout=machine.deadline(60)) for _ in range(3)]
    client.stop_stream()
    (first, error), (_, refusal), (last, _) = received
    assert error is None
    assert first.get_response().id == "0"
    assert first.get_response().parameters["triton_final_response"].bool_param
    assert "no" in str(refusal)
    assert last.as_numpy("embeddings").shape == (3, 384)


def test_async_client_with_concurrent_requests_gets_each_result(
    world: World, rows: NDArray[np.float32]
) -> None:
    async def run() -> list[Any]:
        async with aio.InferenceServerClient(world.grpc) as client:
            calls = [
                client.infer(
                    "translate:minilm:turned", [tensor("embeddings", rows[i : i + 1], "FP32")]
                )
                for i in range(len(rows))
            ]
            return list(await asyncio.gather(*calls))

    translated = np.vstack([result.as_numpy("embeddings") for result in asyncio.run(run())])
    body = {"source": "minilm", "target": "turned", "embeddings": rows.tolist()}
    expected = world.http.post("/translate", json=body).json()["embeddings"]
    np.testing.assert_allclose(translated, expected, atol=1e-5)


def huge(rows: NDArray[Any]) -> Any:
    return embeddings_message(rows, input={"shape": [1 << 30, 1 << 30]})


INVALID = grpc.StatusCode.INVALID_ARGUMENT
HOSTILE: list[tuple[str, Any, grpc.StatusCode, str]] = [
    ("wrong width", lambda rows: embeddings_message(rows[:, :5]), INVALID, "384"),
    (
        "wrong model",
        lambda rows: embeddings_message(rows, model_name="translate:minilm:no"),
        grpc.StatusCode.NOT_FOUND,
        "no",
    ),
    (
        "no model",
        lambda rows: embeddings_message(rows, model_name=""),
        grpc.StatusCode.NOT_FOUND,
        "name",
    ),
    (
        "wrong version",
        lambda rows: embeddings_message(rows, model_version="1"),
        grpc.StatusCode.NOT_FOUND,
        "version",
    ),
    ("not finite", lambda rows: embeddings_message(rows * np.nan), INVALID, "finite"),
    (
        "truncated contents",
        lambda rows: embeddings_message(rows, raw_input_contents=[rows.tobytes()[:-1]]),
        INVALID,
        "bytes",
    ),
    ("huge shape", huge, INVALID, "max_rows"),
    (
        "negative shape",
        lambda rows: embeddings_message(rows, input={"shape": [-1, 384]}),
        INVALID,
        "shape",
    ),
    (
        "wrong rank",
        lambda rows: embeddings_message(rows, input={"shape": [rows.size]}),
        INVALID,
        "n, d",
    ),
    (
        "wrong datatype",
        lambda rows: embeddings_message(rows, input={"datatype": "INT64"}),
        INVALID,
        "FP32",
    ),
    (
        "contents of another type",
        lambda rows: embeddings_message(
            rows, input={"contents": {"int64_contents": [1, 2]}}, raw_input_contents=[]
        ),
        INVALID,
        "int64_contents",
    ),
    (
        "contents twice",
        lambda rows: embeddings_message(rows, input={"contents": {"fp32_contents": [1.0]}}),
        INVALID,
        "both",
    ),
    (
        "too few contents",
        lambda rows: embeddings_message(
            rows, input={"contents": {"fp32_contents": [1.0]}}, raw_input_contents=[]
        ),
        INVALID,
        "4608",
    ),
    (
        "no contents",
        lambda rows: embeddings_message(rows, raw_input_contents=[]),
        INVALID,
        "neither",
    ),
    (
        "too many raw contents",
        lambda rows: embeddings_message(rows, raw_input_contents=[b"", b""]),
        INVALID,
        "raw_input_contents",
    ),
    ("no inputs", lambda rows: embeddings_message(rows, inputs=[]), INVALID, "inputs"),
    (
        "unknown output",
        lambda rows: embeddings_message(rows, outputs=[{"name": "no"}]),
        INVALID,
        "embeddings",
    ),
    (
        "message over the limit",
        lambda rows: embeddings_message(rows, raw_input_contents=[bytes(3_000_000)]),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "larger than max",
    ),
    ("many fields", lambda rows: embeddings_message(rows, inputs=[{}] * 2000), INVALID, "1024"),
]


@pytest.mark.parametrize(
    ("make", "code", "text"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE]
)
def test_hostile_message_is_refused_with_a_status(
    stub: Any, rows: NDArray[np.float32], make: Any, code: grpc.StatusCode, text: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(make(rows), timeout=machine.deadline(60))
    error: Any = caught.value
    assert error.code() == code, error.details()
    assert text in error.details()
    assert stub.ModelInfer(embeddings_message(rows)).outputs[0].shape == [len(rows), WIDTH]


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x3a\xff\xff\xff\xff\x7f", b"\x0b\x0c", b"\x2a\x02\x0a\x05", b"\xff" * 20]
)
def test_bytes_that_are_no_message_are_refused(world: World, data: bytes) -> None:
    with grpc.insecure_channel(world.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=machine.deadline(60))
    error: Any = caught.value
    assert error.code() == INVALID
    assert "ModelInferRequest" in error.details()


def test_compressed_message_that_expands_over_the_limit_is_refused(world: World) -> None:
    with grpc.insecure_channel(world.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(8_000_000), compression=grpc.Compression.Gzip, timeout=machine.deadline(60))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("limit", [{"client_timeout": 0.001}, {"timeout": 1}])
def test_exceeded_deadline_is_reported_as_one(
    client: triton.InferenceServerClient, limit: dict[str, Any]
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("stitch:minilm:topic", texts(TEXTS), **limit)
    # Work that would wait longer than its deadline is refused at once.
    assert str(caught.value.status()).removeprefix("StatusCode.") in (
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
    )
    assert len(best_labels(client.infer("stitch:minilm:topic", texts(INPUTS)))) == len(INPUTS)


def test_cancelled_call_ends_and_the_next_one_is_served(
    client: triton.InferenceServerClient,
) -> None:
    done = threading.Event()
    errors: list[Any] = []

    def callback(result: Any, error: Any) -> None:
        errors.append(error)
        done.set()

    call = client.async_infer("stitch:minilm:topic", texts(TEXTS[:40]), callback)
    call.cancel()
    assert done.wait(machine.deadline(60))
    assert errors[0] is None or "CANCELLED" in str(errors[0].status()) or "cancel" in str(errors[0])
    assert len(best_labels(client.infer("stitch:minilm:topic", texts(INPUTS)))) == len(INPUTS)


def test_unknown_method_is_unimplemented(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="embed:minilm"))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_metadata_of_a_response_names_the_versions_and_the_request(
    stub: Any, rows: NDArray[np.float32]
) -> None:
    response, call = stub.ModelInfer.with_call(
        embeddings_message(rows), metadata=[("x-request-id", "abc")]
    )
    metadata = dict(call.initial_metadata())
    assert metadata["x-request-id"] == "abc"
    assert metadata["stitchwork-source"].startswith("minilm@")
    assert response.model_version
