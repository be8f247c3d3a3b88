"""Bodies of Text Embeddings Inference."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, RootModel, ValidationInfo

from stitchwork.api.content import validation
from stitchwork.api.openai.schemas import INPUT_SCHEMA, TOKENS_SCHEMA, parse_inputs, parse_tokens
from stitchwork.api.schemas.fields import FieldParser
from stitchwork.api.schemas.items import is_named_image
from stitchwork.api.schemas.protocol_model import ProtocolModel
from stitchwork.api.schemas.response_model import ResponseModel
from stitchwork.errors import InvalidInputError
from stitchwork.resources import Input, TokenIds

REFUSED_FIELDS: Final = {"parameters": "send each of them as a field beside `inputs`"}


def _parse_inputs(value: Any, info: ValidationInfo) -> list[Input]:
    return parse_inputs(value)


class EmbedInputsRequest(ProtocolModel):
    """A request of `/embed` of Text Embeddings Inference."""

    refused_fields = REFUSED_FIELDS
    inputs: Annotated[list[Input], FieldParser(_parse_inputs, INPUT_SCHEMA)]
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


TEXTS_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
    ],
    "description": "A text, or texts.",
}
IDS_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [TOKENS_SCHEMA, {"type": "array", "minItems": 1, "items": TOKENS_SCHEMA}],
    "description": "The token ids of a text, or of texts.",
}


def _parse_texts(value: Any, info: ValidationInfo) -> list[Input]:
    inputs = parse_inputs(value)
    for i, part in enumerate(inputs):
        if isinstance(part, TokenIds) or is_named_image(part):
            kind = "token ids" if isinstance(part, TokenIds) else "an image"
            raise InvalidInputError(f"expected a text, got {kind}", pointer=f"/{i}")
    return inputs


def _parse_ids(value: Any, info: ValidationInfo) -> list[Input]:
    if not isinstance(value, list) or not value:
        got = "an empty list" if value == [] else validation.json_type(value)
        raise InvalidInputError(
            f"expected a non-empty list of token ids, or of such lists, got {got}"
        )
    if not isinstance(value[0], list | str):
        return [parse_tokens(value, "")]
    for i, ids in enumerate(value):
        if not isinstance(ids, list) or not ids:
            got = "an empty list" if ids == [] else validation.json_type(ids)
            raise InvalidInputError(f"expected a list of token ids, got {got}", pointer=f"/{i}")
    return [parse_tokens(ids, f"/{i}") for i, ids in enumerate(value)]


class TokenizeRequest(ProtocolModel):
    """A request of `/tokenize` of Text Embeddings Inference."""

    inputs: Annotated[list[Input], FieldParser(_parse_texts, TEXTS_SCHEMA)]
    add_special_tokens: bool = Field(
        True, strict=True, description="Whether the model's special tokens are among the tokens."
    )
    prompt_name: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Selects a prompt of the encoder's model, which comes before each text.",
    )
    example: ClassVar[dict[str, Any]] = {"inputs": ["how do I reset my card?"]}


class DecodeRequest(ProtocolModel):
    """A request of `/decode` of Text Embeddings Inference."""

    ids: Annotated[list[Input], FieldParser(_parse_ids, IDS_SCHEMA)]
    skip_special_tokens: bool = Field(
        True, strict=True, description="Whether special tokens are left out of the texts."
    )
    example: ClassVar[dict[str, Any]] = {"ids": [[101, 7592, 102]]}


class SimpleToken(ResponseModel):
    """A token of a text."""

    id: int
    text: str = Field(description="Its part of the text; of a special token, its name.")
    special: bool
    start: int | None = Field(
        description="Where it starts in the text with its prompt, in characters; null for special "
        "tokens, and if the model's tokenizer does not tell."
    )
    stop: int | None = Field(description="Where it stops.")


class TokenLists(RootModel[list[list[SimpleToken]]]):
    """The tokens of each text."""


class DecodedTexts(RootModel[list[str]]):
    """The text of each list of token ids."""

    model_config = ConfigDict(json_schema_extra={"example": ["hello"]})


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
    model_dtype: str = Field(
        description="Data type of the encoder's computation; rows are float32."
    )
    model_type: ModelType
    max_input_length: int | None = Field(description="Tokens of a text; null for images.")
    max_client_batch_size: int = Field(description="Inputs of a request.")
    auto_truncate: bool = Field(description="Whether texts that are too long are cut by default.")
    version: str = Field(description="Version of Stitchwork.")
