"""The standard services of gRPC: health checks, and reflection with the library's own client."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.integration.protocols.conftest import TEXTS, World
from tests.support import machine

pytestmark = pytest.mark.models

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def channel(world: World) -> Iterator[Any]:
    with grpc.insecure_channel(world.grpc) as channel:
        yield channel


SERVICES = {
    SERVICE,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


def check(channel: Any, service: str) -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=machine.deadline(30))


@pytest.mark.parametrize("service", ["", *sorted(SERVICES)])
def test_health_check_of_a_service_is_serving(channel: Any, service: str) -> None:
    assert check(channel, service).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", ["no.such.Service", f"{SERVICE}/ModelInfer", "inference"])
def test_health_check_of_an_unknown_service_is_refused(channel: Any, service: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        check(channel, service)
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND
    assert repr(service) in failure.value.details()
    assert SERVICE in failure.value.details()
    assert dict(failure.value.trailing_metadata())["stitchwork-code"] == "unknown-resource"


def test_health_check_with_bytes_that_are_no_message_is_refused(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff", timeout=machine.deadline(30))
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "HealthCheckRequest" in failure.value.details()


def test_health_cannot_be_watched_so_that_clients_take_the_server_as_healthy(channel: Any) -> None:
    """By the protocol, as they do upon UNIMPLEMENTED."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), timeout=machine.deadline(30)
    )
    with pytest.raises(grpc.RpcError) as failure:
        next(watch)
    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_reflection_lists_services_and_describes_a_method_that_can_be_called(
    world: World, channel: Any
) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == SERVICES
    pool = DescriptorPool(database)
    for name in database.get_services():
        assert pool.FindServiceByName(name).methods_by_name, name
    methods = pool.FindServiceByName(SERVICE).methods_by_name
    method = methods["ModelInfer"]
    call = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    request = GetMessageClass(method.input_type)(model_name="embed:minilm")
    tensor = request.inputs.add(name="items", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend(text.encode() for text in TEXTS[:2])
    response = call(request, timeout=machine.deadline(60))
    rows = np.array(response.outputs[0].contents.fp32_contents).reshape(2, -1)
    body = world.http.post("/embed/minilm", json={"items": TEXTS[:2]}).json()
    np.testing.assert_allclose(rows, body["embeddings"], atol=1e-5)
    assert methods["ModelStreamInfer"].client_streaming
    assert "ServerLive" in methods


def test_reflection_by_its_later_name_describes_every_service(channel: Any) -> None:
    from grpc_reflection.v1alpha import reflection_pb2

    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    symbols = [SERVICE, "grpc.health.v1.Health", "inference.ModelConfig", "no.such.Service"]
    requests = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols
    ]
    responses = list(call(iter(requests), timeout=machine.deadline(30)))
    names = [response.WhichOneof("message_response") for response in responses]
    assert names == ["file_descriptor_response"] * 3 + ["error_response"]
    assert responses[3].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert responses[0].original_request == requests[0]


def test_reflection_ends_a_stream_with_a_message_that_is_none(channel: Any) -> None:
    call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.RpcError) as failure:
        list(call(iter([b"\xff\xff"]), timeout=machine.deadline(30)))
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "ServerReflectionRequest" in failure.value.details()
