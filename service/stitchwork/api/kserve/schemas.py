"""Bodies of the Open Inference Protocol."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from stitchwork.api.schemas.fields import InputType, Name
from stitchwork.api.schemas.protocol_model import ProtocolModel
from stitchwork.api.schemas.response_model import ResponseModel
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName

Dimension = Annotated[int, Field(ge=0, le=1 << 40, strict=True)]


SHARED_MEMORY: Final = dict.fromkeys(
    ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"),
    "send the tensor's data instead",
)
"""Parameters of an extension that is not offered."""


class InputParameters(ProtocolModel):
    """Parameters of an input tensor."""

    refused_fields = SHARED_MEMORY
    binary_data_size: int | None = Field(
        None,
        ge=0,
        le=(1 << 63) - 1,
        strict=True,
        description="Size of the tensor after the JSON, instead of `data`.",
    )


class RequestInput(ProtocolModel):
    """An input tensor: numbers or strings in JSON, flat or nested, or bytes after the JSON."""

    name: Name
    shape: Annotated[list[Dimension], Field(max_length=8)]
    datatype: Annotated[str, Field(max_length=16)]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(ProtocolModel):
    """Parameters of an output tensor."""

    refused_fields = SHARED_MEMORY
    binary_data: bool | None = Field(
        None, strict=True, description="Send it as bytes after the JSON."
    )
    classification: int | None = Field(
        None,
        ge=0,
        le=100_000,
        strict=True,
        description="Send the best of this many classes, as strings `score:index:label`, instead "
        "of `scores` or `values`.",
    )


class RequestOutput(ProtocolModel):
    """A requested output tensor."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class InferenceParameters(ProtocolModel):
    """Parameters of the whole request."""

    binary_data_output: bool = Field(
        False, strict=True, description="Send all outputs as bytes after the JSON."
    )
    bridge: BridgeName = DEFAULT_BRIDGE
    truncate: bool | None = Field(None, strict=True, description="Cut texts that are too long.")
    input_type: InputType = None
    top: int = Field(
        5, ge=1, le=1000, strict=True, description="Number of classes in each prediction."
    )
    timeout: int | None = Field(
        None, ge=1, le=(1 << 64) - 1, strict=True, description="Deadline in microseconds from now."
    )


class InferenceRequest(ProtocolModel):
    """An inference request of the Open Inference Protocol."""

    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: InferenceParameters = InferenceParameters()
    inputs: Annotated[list[RequestInput], Field(min_length=1, max_length=64)]
    outputs: Annotated[list[RequestOutput], Field(max_length=64)] | None = None
    example: ClassVar[dict[str, Any]] = {
        "inputs": [
            {
                "name": "items",
                "shape": [1],
                "datatype": "BYTES",
                "data": ["how do I reset my card?"],
            }
        ],
        "parameters": {"top": 3},
    }


EXAMPLE_MODEL: Final = "stitch:minilm:intent"
EXAMPLE_VERSION: Final = "e1e0f4b6a4b6cbbd2d0a3c0e1f3a5b77"


class ServerMetadata(ResponseModel):
    """Name and version of the server, and the extensions of the protocol that it supports."""

    name: str
    version: str
    extensions: list[str]


Datatype = Literal["BYTES", "FP32", "BOOL"]
"""The protocol's names of the types of tensors that are sent."""


class TensorMetadata(ResponseModel):
    """An input or output of a model; -1 is a dimension of any size."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(ResponseModel):
    """Inputs, outputs and current version of a model."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": EXAMPLE_MODEL,
                "versions": [EXAMPLE_VERSION],
                "platform": "stitchwork",
                "inputs": [{"name": "items", "datatype": "BYTES", "shape": [-1]}],
                "outputs": [
                    {"name": "labels", "datatype": "BYTES", "shape": [-1, -1]},
                    {"name": "scores", "datatype": "FP32", "shape": [-1, -1]},
                    {"name": "confidence", "datatype": "FP32", "shape": [-1]},
                ],
            }
        }
    )
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReadyResponse(ResponseModel):
    """The model is ready."""

    model_config = ConfigDict(json_schema_extra={"example": {"name": EXAMPLE_MODEL, "ready": True}})
    name: str
    ready: Literal[True]


class ResponseOutputParameters(ResponseModel):
    """Parameters of an output tensor that is sent as bytes."""

    binary_data_size: int = Field(description="Size of the tensor after the JSON.")


Values = Annotated[
    Any,
    WithJsonSchema({"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "string"}]}}),
]
"""Numbers or strings. Not validated: they are many, and our own."""


class ResponseOutput(ResponseModel):
    """An output tensor, in row-major order."""

    name: str
    datatype: Datatype
    shape: list[int]
    data: Values = Field(None, description="Its values, unless they are sent as bytes.")
    parameters: ResponseOutputParameters | None = None


class InferenceResponse(ResponseModel):
    """Output tensors, in the JSON or as bytes after it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model_name": EXAMPLE_MODEL,
                "model_version": EXAMPLE_VERSION,
                "outputs": [
                    {
                        "name": "labels",
                        "datatype": "BYTES",
                        "shape": [1, 2],
                        "data": ["card", "refund"],
                    },
                    {"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": [0.93, 0.07]},
                    {"name": "confidence", "datatype": "FP32", "shape": [1], "data": [0.93]},
                ],
            }
        }
    )
    model_name: str
    model_version: str
    id: str | None = Field(None, description="That of the request, if it has one.")
    outputs: list[ResponseOutput]


class ConfigTensor(ResponseModel):
    """An input or output in a model's configuration."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfiguration(ResponseModel):
    """The configuration of a model, as far as one has it here."""

    name: str
    platform: str
    backend: str
    max_batch_size: int = Field(description="0: no dimension is added to those of the tensors.")
    input: list[ConfigTensor]
    output: list[ConfigTensor]


class DurationStatistics(ResponseModel):
    """Number and duration of requests."""

    count: int
    ns: int = Field(description="Sum of their durations, in nanoseconds.")


class InferenceDurations(ResponseModel):
    """Requests by their outcome."""

    success: DurationStatistics
    fail: DurationStatistics


class ModelStatistics(ResponseModel):
    """Requests of one model that the answering process has served since it started."""

    name: str
    version: str
    last_inference: int = Field(description="In milliseconds since the epoch; 0 if there is none.")
    inference_count: int = Field(description="Number of inputs of successful requests.")
    execution_count: int = Field(description="Number of successful requests.")
    inference_stats: InferenceDurations


class ModelStatisticsResponse(ResponseModel):
    """Statistics of one model, or of all that the answering process has used."""

    model_stats: list[ModelStatistics]


class RepositoryIndexRequest(ProtocolModel):
    """A request of the list of models."""

    ready: bool | None = Field(None, strict=True, description="List only models that are ready.")
    example: ClassVar[dict[str, Any]] = {"ready": True}


class RepositoryModel(ResponseModel):
    """A model in the list of models."""

    name: str
    version: str = Field(description="Empty while there is none.")
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = Field(description="Why it is unavailable.")
