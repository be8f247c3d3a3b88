"""Keys, rates and the end of the gRPC API, on an API process of its own."""

import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from stitchwork.api.kserve.grpc_messages import CLASSES
from stitchwork.registry import api_keys
from stitchwork.resources import Scope
from tests.conftest import Pair
from tests.support import machine
from tests.support.cluster import BoundedClient, Cluster, Process
from tests.support.ports import unused_port
from tests.support.servers import VALKEY_9, server_binary

ADMIN_KEY = "an-admin-key-of-32-characters-or-more"


class GrpcApi(NamedTuple):
    """An API process with keys.

    Attributes:
        api: The process.
        channel: A channel to its gRPC API.
        read_key: A key of scope read.
        infer_key: A key of scope infer, for two calls a minute.
    """

    api: Process
    channel: grpc.Channel
    read_key: str
    infer_key: str


@pytest.fixture(scope="module")
def service(pair: Pair) -> Iterator[GrpcApi]:
    port = unused_port()
    with Cluster(server_binary(VALKEY_9), STITCHWORK_ADMIN_KEY=ADMIN_KEY) as cluster:
        scopes = {"read": Scope.READ, "infer": Scope.INFER}
        keys = [api_keys.new(name, [scope]) for name, scope in scopes.items()]
        file = cluster.folder / "keys"
        file.write_text("\n".join(api_keys.line(record) for _, record in keys))
        api = cluster.api(
            STITCHWORK_GRPC_PORT=str(port),
            STITCHWORK_KEY_FILE=str(file),
            STITCHWORK_RATE_LIMITS="infer=2/minute",
        )
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        with BoundedClient(api.url) as client:
            body = {"modality": "vector", "size": len(pair.x_anchors)}
            assert client.send("PUT", "/anchor-sets/S", body, **headers).is_success
            for space, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors)):
                body = {"anchor_set": "S", "anchors": anchors.tolist()}
                assert client.send("PUT", f"/spaces/{space}", body, **headers).is_success
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield GrpcApi(api, channel, *(key for key, _ in keys))


def translate(service: GrpcApi, rows: Any, *metadata: tuple[str, str]) -> Any:
    """Translate rows by a call with this metadata."""
    spec = {"name": "embeddings", "datatype": "FP32", "shape": rows.shape}
    message = CLASSES["ModelInferRequest"](
        model_name="translate:x:y", inputs=[spec], raw_input_contents=[rows.tobytes()]
    )
    call = service.channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=CLASSES["ModelInferResponse"].FromString,
    )
    return call(message, metadata=metadata, timeout=machine.deadline(60))


def refusal(service: GrpcApi, rows: Any, *metadata: tuple[str, str]) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        translate(service, rows, *metadata)
    return caught.value


def test_call_without_a_key_of_its_scope_is_refused(service: GrpcApi, pair: Pair) -> None:
    for metadata in ((), (("authorization", "Bearer no"),), (("x-api-key", "no"),)):
        error = refusal(service, pair.x, *metadata)
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "key" in error.details()
    error = refusal(service, pair.x, ("x-api-key", service.read_key))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert dict(error.trailing_metadata())["stitchwork-code"] == "insufficient-scope"


def test_call_without_a_key_is_refused_before_its_message_has_arrived(service: GrpcApi) -> None:
    call = service.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
    arrived = threading.Event()

    def never() -> Iterator[bytes]:
        arrived.wait()
        yield b""

    try:
        with pytest.raises(grpc.RpcError) as caught:
            call(never(), timeout=machine.deadline(60))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    finally:
        arrived.set()


def test_health_needs_no_key_and_metadata_one_of_any_scope(service: GrpcApi) -> None:
    live = service.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
    assert CLASSES["ServerLiveResponse"].FromString(live(b"")).live
    metadata = service.channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
    with pytest.raises(grpc.RpcError):
        metadata(b"")
    key = ("authorization", f"Bearer {service.read_key}")
    data = metadata(b"", metadata=[key])
    assert CLASSES["ServerMetadataResponse"].FromString(data).name == "stitchwork"


def test_rate_of_a_key_counts_calls_and_requests_together(service: GrpcApi, pair: Pair) -> None:
    key = f"Bearer {service.infer_key}"
    response = translate(service, pair.x, ("authorization", key))
    rows = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(len(pair.x), -1)
    with BoundedClient(service.api.url) as client:
        body = {"source": "x", "target": "y", "embeddings": pair.x.tolist()}
        answer = client.send("POST", "/translate", body, Authorization=key)
    np.testing.assert_allclose(rows, answer.json()["embeddings"], atol=1e-5)
    error = refusal(service, pair.x, ("x-api-key", service.infer_key))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = dict(error.trailing_metadata())
    assert trailing["stitchwork-code"] == "rate-limit-exceeded"
    assert int(trailing["retry-after"]) >= 1


def test_port_in_use_ends_the_process_with_a_reason(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Cluster(server_binary(VALKEY_9)) as cluster:
            started = cluster.start("api", STITCHWORK_GRPC_PORT=str(port))
            assert started.process.wait(machine.deadline(60)) != 0
            assert "grpc_port" in started.log()


def test_process_ends_in_order(service: GrpcApi) -> None:
    assert service.api.stop() == 0
