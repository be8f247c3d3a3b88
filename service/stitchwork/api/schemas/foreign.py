"""Request bodies of other services' protocols, as their clients send them."""

from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, ValidationInfo

from stitchwork.api.content import validation
from stitchwork.api.schemas.fields import Checked, Name
from stitchwork.api.schemas.requests import Encoding, Schema
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import DEFAULT, BridgeName

TEXTS_ONLY: Final = (
    "expected a text or a list of texts, got token ids: every model here has a tokenizer of its "
    "own. LangChain's OpenAIEmbeddings sends texts with check_embedding_ctx_length=False"
)


def _inputs(value: Any, info: ValidationInfo) -> list[str]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given:
        got = "an empty list" if given == [] else validation.named(given)
        raise InvalidInputError(f"expected a text or a non-empty list of texts, got {got}")
    for i, item in enumerate(given):
        if type(item) is int or (isinstance(item, list) and all(type(t) is int for t in item)):
            raise InvalidInputError(TEXTS_ONLY, code=ErrorCode.TOKEN_IDS)
        if not isinstance(item, str):
            raise InvalidInputError(
                f"expected a text, got {validation.named(item)}", pointer=f"/{i}"
            )
    return given


TEXTS: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
    ],
    "description": "Texts, or the base64 of images where the encoder takes images.",
}
Inputs = Annotated[list[str], Checked(_inputs, TEXTS)]


class EmbeddingsBody(Schema):
    """What OpenAI's clients send to `/v1/embeddings`, and two fields of our own."""

    input: Inputs
    model: str = Field(
        max_length=300,
        description="`space`, which must have an encoder, or `space->target` to translate.",
    )
    encoding_format: Encoding = "float"
    dimensions: int | None = Field(None, ge=1, description="The width of the space, or nothing.")
    user: str | None = Field(None, description="Is not read.")
    bridge: BridgeName = Field(DEFAULT, description="Our own: the way to the target.")
    truncate: bool | None = Field(None, description="Our own: cut texts that are too long.")
    example: ClassVar[dict[str, Any]] = {
        "model": "minilm->mpnet",
        "input": ["how do I reset my card?"],
    }


Side = Annotated[int, Field(ge=0, le=1 << 40, strict=True)]


class TensorParameters(Schema):
    """What is said of one input tensor; what is not known here is not read."""

    model_config = ConfigDict(extra="ignore")
    binary_data_size: int | None = Field(
        None, ge=0, strict=True, description="Bytes of it behind the JSON, instead of `data`."
    )


class TensorBody(Schema):
    """One input tensor: in JSON its numbers or strings, flat or nested, or bytes behind it."""

    name: Name
    shape: Annotated[list[Side], Field(max_length=8)]
    datatype: Annotated[str, Field(max_length=16)]
    parameters: TensorParameters = TensorParameters()
    data: list[Any] | None = None


class OutputParameters(Schema):
    """How one output tensor is to be sent."""

    binary_data: bool | None = Field(None, strict=True, description="As bytes behind the JSON.")


class OutputBody(Schema):
    """One output tensor that is asked for."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class InferParameters(Schema):
    """What holds for the whole request."""

    binary_data_output: bool = Field(False, strict=True, description="Outputs as bytes.")
    bridge: BridgeName = DEFAULT
    truncate: bool | None = Field(None, description="Cut texts that are too long.")
    top: int = Field(5, ge=1, le=1000, description="Classes told for each input.")
    timeout: int | None = Field(None, ge=1, description="Microseconds the answer may take.")


class InferBody(Schema):
    """The JSON of `/v2/models/{model}/infer`."""

    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: InferParameters = InferParameters()
    inputs: Annotated[list[TensorBody], Field(min_length=1, max_length=64)]
    outputs: Annotated[list[OutputBody], Field(max_length=64)] | None = None
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
