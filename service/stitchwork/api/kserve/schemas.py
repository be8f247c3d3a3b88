"""Request bodies of the Open Inference Protocol."""

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from stitchwork.api.schemas.fields import InputType, Name
from stitchwork.api.schemas.request_model import RequestModel
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName

Dimension = Annotated[int, Field(ge=0, le=1 << 40, strict=True)]


class InputParameters(RequestModel):
    """Parameters of an input tensor; unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore")
    binary_data_size: int | None = Field(
        None,
        ge=0,
        le=(1 << 63) - 1,
        strict=True,
        description="Size of the tensor after the JSON, instead of `data`.",
    )


class RequestInput(RequestModel):
    """An input tensor: numbers or strings in JSON, flat or nested, or bytes after the JSON."""

    name: Name
    shape: Annotated[list[Dimension], Field(max_length=8)]
    datatype: Annotated[str, Field(max_length=16)]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(RequestModel):
    """Parameters of an output tensor."""

    binary_data: bool | None = Field(
        None, strict=True, description="Send it as bytes after the JSON."
    )


class RequestOutput(RequestModel):
    """A requested output tensor."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class InferenceParameters(RequestModel):
    """Parameters of the whole request."""

    binary_data_output: bool = Field(
        False, strict=True, description="Send all outputs as bytes after the JSON."
    )
    bridge: BridgeName = DEFAULT_BRIDGE
    truncate: bool | None = Field(None, description="Cut texts that are too long.")
    input_type: InputType = None
    top: int = Field(5, ge=1, le=1000, description="Number of classes in each prediction.")
    timeout: int | None = Field(
        None, ge=1, le=(1 << 64) - 1, description="Deadline in microseconds from now."
    )


class InferenceRequest(RequestModel):
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
