"""Request bodies of the Open Inference Protocol."""

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from stitchwork.api.schemas.fields import Name
from stitchwork.api.schemas.request_model import RequestModel
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName

Dimension = Annotated[int, Field(ge=0, le=1 << 40, strict=True)]


class InputParameters(RequestModel):
    """What is said of one input tensor; what is not known here is not read."""

    model_config = ConfigDict(extra="ignore")
    binary_data_size: int | None = Field(
        None,
        ge=0,
        le=(1 << 63) - 1,
        strict=True,
        description="Bytes of it behind the JSON, instead of `data`.",
    )


class RequestInput(RequestModel):
    """One input tensor: in JSON its numbers or strings, flat or nested, or bytes behind it."""

    name: Name
    shape: Annotated[list[Dimension], Field(max_length=8)]
    datatype: Annotated[str, Field(max_length=16)]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(RequestModel):
    """How one output tensor is to be sent."""

    binary_data: bool | None = Field(None, strict=True, description="As bytes behind the JSON.")


class RequestOutput(RequestModel):
    """One output tensor that is asked for."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class InferenceParameters(RequestModel):
    """What holds for the whole request."""

    binary_data_output: bool = Field(False, strict=True, description="Outputs as bytes.")
    bridge: BridgeName = DEFAULT_BRIDGE
    truncate: bool | None = Field(None, description="Cut texts that are too long.")
    top: int = Field(5, ge=1, le=1000, description="Classes told for each input.")
    timeout: int | None = Field(
        None, ge=1, le=(1 << 64) - 1, description="Microseconds the answer may take."
    )


class InferenceRequest(RequestModel):
    """The JSON of `/v2/models/{model}/infer`."""

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
