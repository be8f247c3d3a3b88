"""Bodies of OpenAI's embeddings API."""

from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, WithJsonSchema, model_validator

from stitchwork.api.content import validation
from stitchwork.api.model_names import DEFAULT_MODEL, ModelNameField
from stitchwork.api.schemas.fields import FieldParser, InputType
from stitchwork.api.schemas.items import EncodedImage, compact_text
from stitchwork.api.schemas.protocol_model import ProtocolModel
from stitchwork.api.schemas.request_model import EncodingFormat
from stitchwork.api.schemas.response_model import ResponseModel
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.resources import Input, TokenIds

TEXTS_ONLY: Final = "expected a text, got token ids"
MAX_TOKEN_ID: Final = 2**31 - 1
PART_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "A text or an image as a part of a message.",
    "properties": {
        "type": {"type": "string", "enum": ["text", "image_url"]},
        "text": {"type": "string"},
        "image_url": {"type": "object", "properties": {"url": {"type": "string"}}},
    },
}
TOKENS_SCHEMA: Final[dict[str, Any]] = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID},
}
INPUT_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [{"type": "string"}, PART_SCHEMA, TOKENS_SCHEMA]},
        },
        TOKENS_SCHEMA,
    ],
    "description": "Texts, or the token ids of texts by the model's own tokenizer with its special "
    "tokens, or, for an image encoder, images in base64, as data URIs or, from "
    "allowed hosts, by URL.",
}


def _parse_input(value: Any, info: ValidationInfo) -> list[Input]:
    return parse_inputs(value)


def parse_inputs(value: Any) -> list[Input]:
    """The texts, token ids or images of a request.

    Args:
        value: One of them, or a list of them.

    Raises:
        InvalidInputError: If it is none, or one of them is of another type.
    """
    is_list = isinstance(value, list) and not (value and type(value[0]) is int)
    inputs = value if is_list else [value]
    if not inputs or not isinstance(inputs[0], str | dict | list | int):
        got = "an empty list" if inputs == [] else validation.json_type(value)
        raise InvalidInputError(f"expected a text or a non-empty list of texts, got {got}")
    return [
        parse_tokens(part, f"/{i}")
        if isinstance(part, list)
        else compact_text(parse_part(part, f"/{i}"))
        for i, part in enumerate(inputs)
    ]


def parse_tokens(ids: list[Any], pointer: str) -> TokenIds:
    """The token ids of one text.

    Args:
        ids: The ids.
        pointer: Where they are, for the error.

    Raises:
        InvalidInputError: If there are none, or one of them is no token id.
    """
    if not ids:
        raise InvalidInputError("expected a text that is not empty", pointer=pointer)
    for i, token in enumerate(ids):
        if type(token) is not int or not 0 <= token <= MAX_TOKEN_ID:
            got = token if type(token) is int else validation.json_type(token)
            raise InvalidInputError(f"expected a token id, got {got}", pointer=f"{pointer}/{i}")
    return TokenIds.of(ids)


def parse_part(part: Any, pointer: str) -> str:
    """A text or an image of a request: a string, or a part of a message.

    Args:
        part: The value.
        pointer: Where it is, for the error.

    Returns:
        A string; what is named as an image is an `EncodedImage`.

    Raises:
        InvalidInputError: If it is neither, or both.
    """
    if isinstance(part, list) and part and all(type(token) is int for token in part):
        raise InvalidInputError(TEXTS_ONLY, pointer=pointer, code=ErrorCode.TOKEN_IDS)
    match part:
        case str():
            return part
        case {"text": str(text), "image_url": str() | dict()} if text:
            raise InvalidInputError(
                "expected a text or an image, got an object with both", pointer=pointer
            )
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": str() | {"url": str()}}:
            url = part["image_url"]
            return EncodedImage(url if isinstance(url, str) else url["url"])
        case dict():
            raise InvalidInputError(
                'expected a text, {"type": "text", "text": …} or {"type": "image_url", '
                '"image_url": {"url": …}}, got another object',
                pointer=pointer,
            )
    raise InvalidInputError(f"expected a text, got {validation.json_type(part)}", pointer=pointer)


TRUNCATE_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["END", "NONE"]}]
}
TRUNCATE_WORDS: Final = {"NONE": False, "END": True}
"""What servers for NVIDIA's models call not to cut texts, and to cut their ends."""


def _parse_truncate(value: Any, info: ValidationInfo) -> bool:
    known = TRUNCATE_WORDS.get(value, value) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise InvalidInputError(f"expected a boolean, 'END' or 'NONE', got {repr(value)[:40]}")
    return known


_PROMPTS: Final = "`input_type` selects a prompt of the model"
UNIT: Final = "embeddings have the length that the space's encoder gives them (`normalize`)"
"""Why a field that would scale embeddings is refused."""
REFUSED_FIELDS: Final = {
    "instruction": _PROMPTS,
    "instructions": _PROMPTS,
    "prompt": _PROMPTS,
    "prompt_name": _PROMPTS,
    "normalize": UNIT,
    "normalized": UNIT,
    "normalize_embeddings": UNIT,
    "embedding_type": "`encoding_format` is float or base64",
    "embedding_types": "`encoding_format` is float or base64",
    "output_dtype": "`encoding_format` is float or base64",
    "output_dimension": "`dimensions` is the number of dimensions",
    "late_chunking": "send each chunk as a text",
    "messages": "send `input`",
}


class EmbeddingsRequest(ProtocolModel):
    """A request of OpenAI's embeddings API, with some fields that this API does not have."""

    refused_fields = REFUSED_FIELDS
    input: Annotated[list[Input], FieldParser(_parse_input, INPUT_SCHEMA)]
    model: ModelNameField = DEFAULT_MODEL
    encoding_format: EncodingFormat = "float"
    dimensions: int | None = Field(
        None,
        ge=1,
        strict=True,
        description="Number of dimensions that embeddings are cut to, if the space's encoder is "
        "made for it (`matryoshka`); else their width.",
    )
    user: Any = Field(None, description="Ignored.")
    input_type: InputType = None
    task: InputType = Field(
        None, description="The same as `input_type`, as clients of Jina's models name it."
    )
    bridge: BridgeName = Field(
        DEFAULT_BRIDGE, description="Bridge to the target; not in OpenAI's API."
    )
    truncate: Annotated[bool | None, FieldParser(_parse_truncate, TRUNCATE_SCHEMA)] = Field(
        None,
        description="Cut texts that are too long, also as the words END and NONE; not in OpenAI's "
        "API.",
    )
    truncate_prompt_tokens: Literal[-1] | None = Field(
        None, description="The same as `truncate`, as clients of vLLM name it: -1 cuts texts."
    )
    blank_texts: Literal["refuse", "null"] = Field(
        "refuse",
        description="Result for a text without a visible character, which cannot be embedded: an "
        "error of the whole request, or null as its embedding, with an `error`; not in OpenAI's "
        "API.",
    )
    add_special_tokens: Literal[True] | None = Field(
        None, description="Always true; not in OpenAI's API."
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

    @property
    def cuts_texts(self) -> bool | None:
        """Whether texts that are too long are cut; None takes the encoder's setting."""
        return True if self.truncate_prompt_tokens else self.truncate


Embedding = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "string", "contentEncoding": "base64"},
                {"type": "null"},
            ]
        }
    ),
]
"""(d,) float32, its base64 as text, or None. Not validated: rows are many, and our own."""


class EmbeddingObject(ResponseModel):
    """The embedding of one input."""

    object: Literal["embedding"]
    index: int
    embedding: Embedding = Field(
        description="With `encoding_format: base64`, the base64 of little-endian float32; null for "
        "a blank text, with `blank_texts: null`."
    )
    error: str | None = Field(None, description="Why there is no embedding; not in OpenAI's API.")


class Usage(ResponseModel):
    """Tokens that the encoder read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(ResponseModel):
    """Embeddings in the order of the inputs."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "5f0c",
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.01, -0.02, 0.03]}],
                "model": "minilm->mpnet",
                "usage": {"prompt_tokens": 9, "total_tokens": 9},
            }
        }
    )
    id: str = Field(description="The request's id; not in OpenAI's API.")
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
