"""Bodies of Text Embeddings Inference."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, RootModel, ValidationInfo

from stitchwork.api.openai.schemas import INPUT_SCHEMA, parse_inputs
from stitchwork.api.schemas.fields import FieldParser
from stitchwork.api.schemas.protocol_model import ProtocolModel
from stitchwork.api.schemas.response_model import ResponseModel

REFUSED_FIELDS: Final = {"parameters": "send each of them as a field beside `inputs`"}


def _parse_inputs(value: Any, info: ValidationInfo) -> list[str | bytes]:
    return parse_inputs(value)


class EmbedInputsRequest(ProtocolModel):
    """A request of `/embed` of Text Embeddings Inference."""

    refused_fields = REFUSED_FIELDS
    inputs: Annotated[list[str | bytes], FieldParser(_parse_inputs, INPUT_SCHEMA)]
    normalize: bool = Field(
        True,
        strict=True,
        description="Scale embeddings to unit length; false leaves them as in their space.",
    )
    truncate: bool | None = Field(
        None,
        strict=True,
        description="Cut texts that are too long; unset: as the encoder is registered.",
    )
    truncation_direction: Literal["Right", "right"] | None = Field(
        None, description="Texts are cut at their end."
    )
    prompt_name: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Selects a prompt of the encoder's model, as `input_type` of `/embed` does.",
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        strict=True,
        description="Number of dimensions that embeddings are cut to, if the space's encoder is "
        "made for it (`matryoshka`); else their width.",
    )
    example: ClassVar[dict[str, Any]] = {"inputs": ["how do I reset my card?"]}


class EmbeddingLists(RootModel[list[list[float]]]):
    """One row for each input."""

    model_config = ConfigDict(json_schema_extra={"example": [[0.01, -0.02, 0.03]]})


class PoolingType(ResponseModel):
    """What kind of model it is: one of embeddings."""

    pooling: str = Field(description="As the encoder is registered; `image` for images.")


class ModelType(ResponseModel):
    """The kind of a model."""

    embedding: PoolingType


class ModelInfo(ResponseModel):
    """A model as Text Embeddings Inference describes it."""

    model_id: str = Field(description="The encoder's model; of a local folder, the space.")
    model_sha: str | None = Field(description="Its revision, if one is registered.")
    model_dtype: str = Field(description="What the encoder is computed in; rows are float32.")
    model_type: ModelType
    max_input_length: int | None = Field(description="Tokens of a text; null for images.")
    max_client_batch_size: int = Field(description="Inputs of a request.")
    auto_truncate: bool = Field(description="Whether texts that are too long are cut by default.")
    version: str = Field(description="Version of Stitchwork.")
