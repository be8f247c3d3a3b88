"""Request bodies of inference: translate, classify, embed, stitch."""

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from stitchwork.api.schemas.fields import (
    BlankTexts,
    Bridge,
    Id,
    InputType,
    Items,
    MinConfidence,
    Rows,
    Scale,
    Top,
    Truncate,
)
from stitchwork.api.schemas.request_model import EncodingFormat, RequestModel
from stitchwork.geometry.bridges import DEFAULT_BRIDGE


class ItemsMixin(RequestModel):
    """Raw inputs: texts, or image files as base64 or as the parts of a multipart body."""

    items: Items = Field(description="Texts, or image files in base64.")


class TranslateRequest(RequestModel):
    """Embeddings of one space to translate into another."""

    source: Id = Field(description="Id of the space of the embeddings.")
    target: Id = Field(description="Id of the space to translate into.")
    bridge: Bridge = DEFAULT_BRIDGE
    encoding_format: EncodingFormat = "float"
    scale: Scale | None = None
    embeddings: Rows = Field(description="(n, d) float32.")
    example: ClassVar[dict[str, Any]] = {
        "source": "minilm",
        "target": "use",
        "embeddings": [[0.01, -0.02, 0.03]],
    }


class ClassifyRequest(RequestModel):
    """Embeddings of one space to classify by a head of this or another space."""

    space: Id = Field(description="Id of the space of the embeddings.")
    bridge: Bridge = DEFAULT_BRIDGE
    encoding_format: EncodingFormat = "float"
    scale: Scale | None = None
    embeddings: Rows = Field(description="(n, d) float32.")
    top: Top = 5
    min_confidence: MinConfidence = 0.0
    example: ClassVar[dict[str, Any]] = {
        "space": "minilm",
        "embeddings": [[0.01, -0.02, 0.03]],
        "top": 3,
    }


class EmbedRequest(ItemsMixin):
    """Raw inputs to embed and, with a target, to translate."""

    target: Id | None = Field(None, description="Id of a space to translate into.")
    bridge: Bridge = DEFAULT_BRIDGE
    encoding_format: EncodingFormat = "float"
    truncate: Truncate = None
    input_type: InputType = None
    blank_texts: BlankTexts = "refuse"
    example: ClassVar[dict[str, Any]] = {"items": ["how do I reset my card?"], "target": "use"}

    @model_validator(mode="after")
    def _uses_all(self) -> Self:
        if self.target is None:
            self.check_unused(("bridge",), "a target")
        return self


class StitchRequest(ItemsMixin):
    """Raw inputs to embed, translate and classify."""

    bridge: Bridge = DEFAULT_BRIDGE
    truncate: Truncate = None
    input_type: InputType = None
    blank_texts: BlankTexts = "refuse"
    top: Top = 5
    min_confidence: MinConfidence = 0.0
    example: ClassVar[dict[str, Any]] = {"items": ["how do I reset my card?"], "top": 3}
