"""Request bodies of inference: translate, classify, embed, stitch."""

from typing import Any, ClassVar

from pydantic import (
    Field,
)

from stitchwork.api.schemas.fields import (
    Id,
    Int,
    Items,
    Rows,
    Truncate,
)
from stitchwork.api.schemas.request_model import EncodingFormat, RequestModel
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName


class ItemsMixin(RequestModel):
    """Raw inputs: texts, or image files as base64 or as the parts of a multipart body."""

    items: Items


class TranslateRequest(RequestModel):
    """Embeddings of one space to translate into another."""

    source: Id
    target: Id
    bridge: BridgeName = DEFAULT_BRIDGE
    encoding_format: EncodingFormat = "float"
    embeddings: Rows
    example: ClassVar[dict[str, Any]] = {
        "source": "minilm",
        "target": "use",
        "embeddings": [[0.01, -0.02, 0.03]],
    }


class ClassifyRequest(RequestModel):
    """Embeddings of one space to classify by a head of this or another space."""

    space: Id
    bridge: BridgeName = DEFAULT_BRIDGE
    encoding_format: EncodingFormat = "float"
    embeddings: Rows
    top: Int = Field(5, ge=1, le=1000, description="Number of classes in each prediction.")
    example: ClassVar[dict[str, Any]] = {
        "space": "minilm",
        "embeddings": [[0.01, -0.02, 0.03]],
        "top": 3,
    }


class EmbedRequest(ItemsMixin):
    """Raw inputs to embed and, with a target, to translate."""

    target: Id | None = None
    bridge: BridgeName = DEFAULT_BRIDGE
    encoding_format: EncodingFormat = "float"
    truncate: Truncate = None
    example: ClassVar[dict[str, Any]] = {"items": ["how do I reset my card?"], "target": "use"}


class StitchRequest(ItemsMixin):
    """Raw inputs to embed, translate and classify."""

    bridge: BridgeName = DEFAULT_BRIDGE
    truncate: Truncate = None
    top: Int = Field(5, ge=1, le=1000, description="Number of classes in each prediction.")
    example: ClassVar[dict[str, Any]] = {"items": ["how do I reset my card?"], "top": 3}
