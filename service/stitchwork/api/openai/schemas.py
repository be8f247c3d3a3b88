"""Request bodies of OpenAI's embeddings API."""

from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, ValidationInfo

from stitchwork.api.content import validation
from stitchwork.api.schemas.fields import FieldParser
from stitchwork.api.schemas.request_model import EncodingFormat, RequestModel
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName

TEXTS_ONLY: Final = (
    "expected a text or a list of texts, got token ids: every model here has a tokenizer of its "
    "own. LangChain's OpenAIEmbeddings sends texts with check_embedding_ctx_length=False"
)


def _inputs(value: Any, info: ValidationInfo) -> list[str]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given:
        got = "an empty list" if given == [] else validation.json_type(given)
        raise InvalidInputError(f"expected a text or a non-empty list of texts, got {got}")
    for i, item in enumerate(given):
        if type(item) is int or (isinstance(item, list) and all(type(t) is int for t in item)):
            raise InvalidInputError(TEXTS_ONLY, code=ErrorCode.TOKEN_IDS)
        if not isinstance(item, str):
            raise InvalidInputError(
                f"expected a text, got {validation.json_type(item)}", pointer=f"/{i}"
            )
    return given


TEXTS: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
    ],
    "description": "Texts, or the base64 of images where the encoder takes images.",
}
Inputs = Annotated[list[str], FieldParser(_inputs, TEXTS)]


class EmbeddingsRequest(RequestModel):
    """What OpenAI's clients send to `/v1/embeddings`, and two fields of our own."""

    input: Inputs
    model: str = Field(
        max_length=300,
        description="`space`, which must have an encoder, or `space->target` to translate.",
    )
    encoding_format: EncodingFormat = "float"
    dimensions: int | None = Field(None, ge=1, description="The width of the space, or nothing.")
    user: str | None = Field(None, description="Is not read.")
    bridge: BridgeName = Field(DEFAULT_BRIDGE, description="Our own: the way to the target.")
    truncate: bool | None = Field(None, description="Our own: cut texts that are too long.")
    example: ClassVar[dict[str, Any]] = {
        "model": "minilm->mpnet",
        "input": ["how do I reset my card?"],
    }
