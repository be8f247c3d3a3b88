"""Messages of `inference.GRPCInferenceService`, as far as this service reads and writes them.

Names and numbers are the protocol's; fields that are left out here are unknown fields of a
message, which protobuf skips. The classes are made in a pool of their own, so that a program may
import the stubs of another package for the same protocol beside them.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "inference"
MESSAGES: Final[dict[str, dict[str, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": "1 bool"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": "1 bool"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": "1 string",
        "version": "2 string",
        "extensions": "3 repeated string",
    },
    "ModelReadyRequest": {"name": "1 string", "version": "2 string"},
    "ModelReadyResponse": {"ready": "1 bool"},
    "ModelMetadataRequest": {"name": "1 string", "version": "2 string"},
    "ModelMetadataResponse": {
        "name": "1 string",
        "versions": "2 repeated string",
        "platform": "3 string",
        "inputs": "4 repeated TensorMetadata",
        "outputs": "5 repeated TensorMetadata",
    },
    "TensorMetadata": {"name": "1 string", "datatype": "2 string", "shape": "3 repeated int64"},
    "InferParameter": {
        "bool_param": "1 choice bool",
        "int64_param": "2 choice int64",
        "string_param": "3 choice string",
        "double_param": "4 choice double",
        "uint64_param": "5 choice uint64",
    },
    "InferTensorContents": {
        "bool_contents": "1 repeated bool",
        "int_contents": "2 repeated int32",
        "int64_contents": "3 repeated int64",
        "uint_contents": "4 repeated uint32",
        "uint64_contents": "5 repeated uint64",
        "fp32_contents": "6 repeated float",
        "fp64_contents": "7 repeated double",
        "bytes_contents": "8 repeated bytes",
    },
    "ModelInferRequest": {
        "model_name": "1 string",
        "model_version": "2 string",
        "id": "3 string",
        "parameters": "4 map InferParameter",
        "inputs": "5 repeated InferInputTensor",
        "outputs": "6 repeated InferRequestedOutputTensor",
        "raw_input_contents": "7 repeated bytes",
    },
    "InferInputTensor": {
        "name": "1 string",
        "datatype": "2 string",
        "shape": "3 repeated int64",
        "parameters": "4 map InferParameter",
        "contents": "5 InferTensorContents",
    },
    "InferRequestedOutputTensor": {"name": "1 string", "parameters": "2 map InferParameter"},
    "ModelInferResponse": {
        "model_name": "1 string",
        "model_version": "2 string",
        "id": "3 string",
        "parameters": "4 map InferParameter",
        "outputs": "5 repeated InferOutputTensor",
        "raw_output_contents": "6 repeated bytes",
    },
    "InferOutputTensor": {
        "name": "1 string",
        "datatype": "2 string",
        "shape": "3 repeated int64",
        "parameters": "4 map InferParameter",
        "contents": "5 InferTensorContents",
    },
    "ModelStreamInferResponse": {
        "error_message": "1 string",
        "infer_response": "2 ModelInferResponse",
    },
    "ModelConfigRequest": {"name": "1 string", "version": "2 string"},
    "ModelConfigResponse": {"config": "1 ModelConfig"},
    "ModelConfig": {
        "name": "1 string",
        "platform": "2 string",
        "max_batch_size": "4 int32",
        "input": "5 repeated ModelInput",
        "output": "6 repeated ModelOutput",
        "backend": "17 string",
    },
    "ModelInput": {"name": "1 string", "data_type": "2 int32", "dims": "4 repeated int64"},
    "ModelOutput": {"name": "1 string", "data_type": "2 int32", "dims": "3 repeated int64"},
    "ModelStatisticsRequest": {"name": "1 string", "version": "2 string"},
    "ModelStatisticsResponse": {"model_stats": "1 repeated ModelStatistics"},
    "ModelStatistics": {
        "name": "1 string",
        "version": "2 string",
        "last_inference": "3 uint64",
        "inference_count": "4 uint64",
        "execution_count": "5 uint64",
        "inference_stats": "6 InferStatistics",
    },
    "InferStatistics": {"success": "1 StatisticDuration", "fail": "2 StatisticDuration"},
    "StatisticDuration": {"count": "1 uint64", "ns": "2 uint64"},
    "RepositoryIndexRequest": {"repository_name": "1 string", "ready": "2 bool"},
    "RepositoryIndexResponse": {"models": "1 repeated ModelIndex"},
    "ModelIndex": {
        "name": "1 string",
        "version": "2 string",
        "state": "3 string",
        "reason": "4 string",
    },
}
"""The fields of each message: number, `repeated`, `map` of strings or `choice` of one, type."""
CONTENTS: Final[dict[str, str]] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Field of `InferTensorContents` for values of each datatype that has one."""
METHODS: Final = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
)
"""The methods with one message of the name and `Request`, and one of the name and `Response`."""
POOL: Final = descriptor_pool.DescriptorPool()
"""What is known of messages and services."""

_Field = descriptor_pb2.FieldDescriptorProto


def _add_field(message: Any, name: str, declaration: str) -> None:
    number, *words, kind = declaration.split()
    repeated = "repeated" in words or "map" in words
    field = message.field.add(name=name, number=int(number))
    field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    if "choice" in words:
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if "map" in words:
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", "1 string")
        _add_field(entry, "value", f"2 {kind}")
        kind = f"{message.name}.{entry.name}"
    if kind.split(".")[0] in MESSAGES:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")


def _message_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="stitchwork/inference.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, declaration in fields.items():
            _add_field(message, field, declaration)
    service = file.service.add(name="GRPCInferenceService")
    for name in METHODS:
        types = {
            "input_type": f".{PACKAGE}.{name}Request",
            "output_type": f".{PACKAGE}.{name}Response",
        }
        service.method.add(name=name, **types)
    service.method.add(
        name="ModelStreamInfer",
        input_type=f".{PACKAGE}.ModelInferRequest",
        output_type=f".{PACKAGE}.ModelStreamInferResponse",
        client_streaming=True,
        server_streaming=True,
    )
    descriptor = POOL.Add(file) or POOL.FindFileByName(file.name)
    return {
        name: message_factory.GetMessageClass(descriptor.message_types_by_name[name])
        for name in MESSAGES
    }


CLASSES: Final = _message_classes()
"""The class of each message by its name; protobuf makes classes that type checkers cannot see."""
