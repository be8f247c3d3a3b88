"""Keys, rates and the end of the gRPC API, on an API process of its own."""

import resource
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from stitchwork.api.kserve.grpc_messages import CLASSES
from stitchwork.registry import api_keys
from stitchwork.resources import Scope
from stitchwork.settings import Settings
from tests.conftest import Pair
from tests.support import machine
from tests.support.cluster import BoundedClient, Cluster, Process
from tests.support.ports import unused_port
from tests.support.servers import VALKEY_9, server_binary
from tests.support.waiting import wait_until

MAX_CONNECTIONS = 20
CLIENT_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of HTTP/2 sends first, with empty settings."""
CLIENT_ADDRESS = "203.0.113.9"
ADMIN_KEY = "an-admin-key-of-32-characters-or-more"


class GrpcApi(NamedTuple):
    """An API process with keys.

    Attributes:
        api: The process.
        port: Where its gRPC API listens.
        channel: A channel to its gRPC API.
        read_key: A key of scope read.
        infer_key: A key of scope infer, for two calls a minute.
        strict_api: Another API process, whose requests may take a second.
        strict_channel: A channel to its gRPC API.
    """

    api: Process
    port: int
    channel: grpc.Channel
    read_key: str
    infer_key: str
    strict_api: Process
    strict_channel: grpc.Channel


@pytest.fixture(scope="module")
def service(pair: Pair) -> Iterator[GrpcApi]:
    port, strict_port = unused_port(), unused_port()
    with Cluster(server_binary(VALKEY_9), STITCHWORK_ADMIN_KEY=ADMIN_KEY) as cluster:
        scopes = {"read": Scope.READ, "infer": Scope.INFER}
        keys = [api_keys.new(name, [scope]) for name, scope in scopes.items()]
        file = cluster.folder / "keys"
        file.write_text("\n".join(api_keys.line(record) for _, record in keys))
        strict_api = cluster.start(
            "api",
            *("sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh"),
            STITCHWORK_GRPC_PORT=str(strict_port),
            STITCHWORK_KEY_FILE=str(file),
            STITCHWORK_REQUEST_TIMEOUT_SECONDS="1",
        )
        api = cluster.api(
            STITCHWORK_GRPC_PORT=str(port),
            STITCHWORK_KEY_FILE=str(file),
            STITCHWORK_RATE_LIMITS="infer=2/minute",
            STITCHWORK_LOG_LEVEL="info",
            STITCHWORK_MAX_CONNECTIONS=str(MAX_CONNECTIONS),
            STITCHWORK_TRUSTED_PROXIES="127.0.0.1",
            # Longer than the process may take to stop.
            STITCHWORK_REQUEST_TIMEOUT_SECONDS="3600",
        )
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        with BoundedClient(api.url) as client:
            body = {"modality": "vector", "size": len(pair.x_anchors)}
            assert client.send("PUT", "/anchor-sets/S", body, **headers).is_success
            for space, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors)):
                body = {"anchor_set": "S", "anchors": anchors.tolist()}
                assert client.send("PUT", f"/spaces/{space}", body, **headers).is_success
        with BoundedClient(strict_api.url) as client:
            assert client.send("GET", "/health/live").is_success
        with (
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
            grpc.insecure_channel(f"127.0.0.1:{strict_port}") as strict_channel,
        ):
            read_key, infer_key = (key for key, _ in keys)
            yield GrpcApi(api, port, channel, read_key, infer_key, strict_api, strict_channel)


@contextmanager
def open_stream(
    channel: grpc.Channel,
    method: str = "ModelStreamInfer",
    key: str = "",
    service: str = "inference.GRPCInferenceService",
) -> Iterator[Any]:
    """A call that sends no message while the context lasts."""
    ended = threading.Event()

    def messages() -> Iterator[bytes]:
        ended.wait()
        yield from ()

    is_unary = method != "ModelStreamInfer"
    make = channel.stream_unary if is_unary else channel.stream_stream
    metadata = [("authorization", f"Bearer {key}")] if key else []
    call: Any = make(f"/{service}/{method}")
    call = call.future if is_unary else call
    try:
        yield call(messages(), metadata=metadata, timeout=machine.deadline(60))
    finally:
        ended.set()


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


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer", "ModelMetadata"])
def test_call_without_a_key_is_refused_before_its_message_has_arrived(
    service: GrpcApi, method: str
) -> None:
    with open_stream(service.channel, method) as call:
        assert call.code() == grpc.StatusCode.UNAUTHENTICATED
        assert dict(call.trailing_metadata())["stitchwork-code"] == "unauthenticated"


@pytest.mark.parametrize("method", ["ServerLive", "ServerReady"])
def test_health_check_does_not_wait_for_a_message(service: GrpcApi, method: str) -> None:
    with open_stream(service.channel, method) as call:
        assert CLASSES[f"{method}Response"].FromString(call.result()).ListFields()


def test_health_check_by_name_waits_a_moment_for_its_message(service: GrpcApi) -> None:
    """Nobody without a key can hold calls for `request_timeout_seconds`, which is an hour here."""
    with open_stream(service.channel, "Check", service="grpc.health.v1.Health") as call:
        assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "HealthCheckRequest within 2 seconds" in call.details()
        assert dict(call.trailing_metadata())["stitchwork-code"] == "slow-request"


def test_health_check_by_name_needs_no_key(service: GrpcApi) -> None:
    check = service.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=machine.deadline(60)) == b"\x08\x01"
    with pytest.raises(grpc.RpcError) as caught:
        check(b"\x0a\x02no", timeout=machine.deadline(60))
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.NOT_FOUND


def test_message_of_a_health_check_is_not_parsed(service: GrpcApi) -> None:
    live = service.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
    assert CLASSES["ServerLiveResponse"].FromString(live(b"\xff" * 20)).live


def test_message_of_names_that_is_large_is_refused(service: GrpcApi) -> None:
    call = service.channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")
    message = CLASSES["ModelMetadataRequest"](name="n" * 16384).SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        call(message, metadata=[("x-api-key", service.read_key)], timeout=machine.deadline(60))
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 16384 bytes" in error.details()


def test_stream_without_a_message_ends_in_time(service: GrpcApi) -> None:
    with open_stream(service.strict_channel, key=service.infer_key) as call:
        assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "request_timeout_seconds" in call.details()
        assert dict(call.trailing_metadata())["stitchwork-code"] == "slow-request"


def test_idle_connections_leave_room_for_http(service: GrpcApi) -> None:
    accepted = 0
    with ExitStack() as stack:
        for _ in range(3 * MAX_CONNECTIONS):
            address = ("127.0.0.1", service.port)
            client = socket.create_connection(address, machine.deadline(60))
            stack.enter_context(client)
            # A connection over the limit is closed.
            with suppress(ConnectionError):
                client.sendall(CLIENT_PREFACE)
                accepted += bool(client.recv(1))
        # Not the limit itself: on a slow machine the first connections may have been closed again.
        assert 0 < accepted < 3 * MAX_CONNECTIONS
        with BoundedClient(service.api.url) as http:
            assert http.send("GET", "/health/live").is_success
    live = service.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
    assert live(b"", wait_for_ready=True, timeout=machine.deadline(60))


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[Counter[str]]:
    """Meanwhile somebody without a key holds connections, each of which is opened again at once."""
    stop, outcomes = threading.Event(), Counter[str]()

    def is_closed(client: socket.socket) -> bool:
        try:
            return not client.recv(1024)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def hold() -> None:
        clients = dict[int, socket.socket]()
        while not stop.wait(0.1):
            for number in range(count):
                if number in clients and not is_closed(clients[number]):
                    continue
                if number in clients:
                    clients[number].close()
                client = socket.create_connection(("127.0.0.1", port), machine.deadline(60))
                with suppress(ConnectionError):
                    client.sendall(CLIENT_PREFACE)
                client.setblocking(False)
                clients[number] = client
                outcomes["opened"] += 1
        for client in clients.values():
            client.close()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(hold)
        try:
            wait_until("there is no room", lambda: outcomes["opened"] > count)
            yield outcomes
        finally:
            stop.set()
        future.result()


def test_connections_without_a_key_that_are_opened_again_and_again_keep_nobody_out(
    service: GrpcApi,
) -> None:
    """Others connect meanwhile, and stay connected once they have shown a key."""
    path = "/inference.GRPCInferenceService/ServerMetadata"
    metadata, seconds = [("x-api-key", service.read_key)], machine.deadline(60)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with idle_connections(service.port, 2 * MAX_CONNECTIONS) as outcomes, ExitStack() as stack:
        calls = []
        for _ in range(3):
            channel = grpc.insecure_channel(f"127.0.0.1:{service.port}", options)
            calls.append(stack.enter_context(channel).unary_unary(path))
            calls[-1](b"", metadata=metadata, wait_for_ready=True, timeout=seconds)
        count = outcomes["opened"]
        wait_until("more are opened", lambda: outcomes["opened"] > count + 2 * MAX_CONNECTIONS)
        for call in calls:
            call(b"", metadata=metadata, timeout=seconds)


def test_api_has_descriptors_for_all_its_connections(service: GrpcApi) -> None:
    limits = resource.prlimit(service.strict_api.process.pid, resource.RLIMIT_NOFILE)
    count = 2 * Settings.model_fields["max_connections"].default
    assert limits[0] >= min(count, limits[1])


def test_stream_reports_the_code_of_an_error(service: GrpcApi) -> None:
    call = service.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    metadata = [("authorization", f"Bearer {ADMIN_KEY}")]
    responses = call(iter([b"\xff"]), metadata=metadata, timeout=machine.deadline(60))
    response = CLASSES["ModelStreamInferResponse"].FromString(next(iter(responses)))
    assert "ModelInferRequest" in response.error_message
    parameters = response.infer_response.parameters
    assert parameters["stitchwork-code"].string_param == "malformed-input"


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


def test_process_ends_in_order_beside_an_idle_stream(service: GrpcApi) -> None:
    path = "/inference.GRPCInferenceService/ServerMetadata"
    metadata = (("x-api-key", service.read_key), ("x-forwarded-for", CLIENT_ADDRESS))
    with open_stream(service.channel, key=service.infer_key) as call:
        # The server gets the stream before this call, which is of the same connection.
        service.channel.unary_unary(path)(b"", metadata=metadata, timeout=machine.deadline(60))
        assert service.api.stop() == 0
        assert call.code() == grpc.StatusCode.UNAVAILABLE
        assert "stopping" in call.details()
    assert f'"client": "{CLIENT_ADDRESS}"' in service.api.log().replace('":"', '": "')
