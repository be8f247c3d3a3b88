"""Bodies of OpenAI's embeddings API."""

from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, WithJsonSchema, model_validator

from stitchwork.api.content import validation
from stitchwork.api.schemas.fields import FieldParser, InputType
from stitchwork.api.schemas.request_model import EncodingFormat, RequestModel
from stitchwork.api.schemas.response_model import ResponseModel
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName

TEXTS_ONLY: Final = (
    "expected a text or a list of texts, got token ids: every model here has its own "
    "tokenizer. LangChain's OpenAIEmbeddings sends texts with check_embedding_ctx_length=False"
)


INPUT_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
    ],
    "description": "Texts or, for an image encoder, images in base64.",
}


def _parse_input(value: Any, info: ValidationInfo) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        got = "an empty list" if texts == [] else validation.json_type(texts)
        raise InvalidInputError(f"expected a text or a non-empty list of texts, got {got}")
    for i, item in enumerate(texts):
        if type(item) is int or (isinstance(item, list) and all(type(t) is int for t in item)):
            raise InvalidInputError(TEXTS_ONLY, code=ErrorCode.TOKEN_IDS)
        if not isinstance(item, str):
            raise InvalidInputError(
                f"expected a text, got {validation.json_type(item)}", pointer=f"/{i}"
            )
    return texts


class EmbeddingsRequest(RequestModel):
    """A request of OpenAI's embeddings API, with some fields that this API does not have."""

    input: Annotated[list[str], FieldParser(_parse_input, INPUT_SCHEMA)]
    model: str = Field(
        max_length=300,
        description="`space`, which must have an encoder, or `space->target` to translate.",
    )
    encoding_format: EncodingFormat = "float"
    dimensions: int | None = Field(
        None,
        ge=1,
        strict=True,
        description="Number of dimensions that embeddings are cut to, if the space's encoder is "
        "made for it (`matryoshka`); else their width.",
    )
    user: str | None = Field(None, description="Ignored.")
    input_type: InputType = None
    task: InputType = Field(
        None, description="The same as `input_type`, as clients of Jina's models name it."
    )
    bridge: BridgeName = Field(
        DEFAULT_BRIDGE, description="Bridge to the target; not in OpenAI's API."
    )
    truncate: bool | None = Field(
        None, strict=True, description="Cut texts that are too long; not in OpenAI's API."
    )
    example: ClassVar[dict[str, Any]] = {
        "model": "minilm->mpnet",
        "input": ["how do I reset my card?"],
    }

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if None not in (self.input_type, self.task) and self.input_type != self.task:
            raise ValueError("expected either input_type or task, got both")
        return self


Embedding = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "string", "contentEncoding": "base64"},
            ]
        }
    ),
]
"""(d,) float32, or its base64 as text. Not validated: rows are many, and our own."""


class EmbeddingObject(ResponseModel):
    """The embedding of one input."""

    object: Literal["embedding"]
    index: int
    embedding: Embedding = Field(
        description="With `encoding_format: base64`, the base64 of little-endian float32."
    )


class Usage(ResponseModel):
    """Tokens that the encoder read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(ResponseModel):
    """Embeddings in the order of the inputs."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.01, -0.02, 0.03]}],
                "model": "minilm->mpnet",
                "usage": {"prompt_tokens": 9, "total_tokens": 9},
            }
        }
    )
    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: Usage


class ModelObject(ResponseModel):
    """A model as OpenAI's clients expect it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "minilm->mpnet",
                "object": "model",
                "created": 0,
                "owned_by": "stitchwork",
                "dimensions": 768,
            }
        }
    )
    id: str
    object: Literal["model"]
    created: int = Field(description="Always 0: the time is not recorded for spaces.")
    owned_by: Literal["stitchwork"]
    dimensions: int = Field(description="Width of its embeddings; not in OpenAI's API.")


class ModelListResponse(ResponseModel):
    """A list of models."""

    object: Literal["list"]
    data: list[ModelObject]
