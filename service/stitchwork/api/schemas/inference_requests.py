"""Request bodies of inference: translate, classify, embed, stitch."""

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from stitchwork.api.schemas.fields import (
    Bridge,
    Id,
    InputType,
    Items,
    Rows,
    Scale,
    Top,
    Truncate,
)
from stitchwork.api.schemas.request_model import EncodingFormat, RequestModel
from stitchwork.errors import InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from stitchwork.geometry.classifier import REGRESSION
from stitchwork.resources import Head


class ItemsMixin(RequestModel):
    """Raw inputs: texts, or image files as base64 or as the parts of a multipart body."""

    items: Items = Field(description="Texts, or image files in base64.")


class TopMixin(RequestModel):
    """The number of classes in each prediction, which a regression does not have."""

    top: Top = 5

    def check_top(self, head: Head | None) -> None:
        """Refuse a number of classes for the values of a regression.

        Raises:
            InvalidInputError: If the request has one.
        """
        if head is not None and head.problem_type == REGRESSION and "top" in self.model_fields_set:
            raise InvalidInputError(
                f"expected no top for head {head.id}, a regression, whose predictions have all "
                "values",
                pointer="/top",
            )


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


class ClassifyRequest(TopMixin):
    """Embeddings of one space to classify by a head of this or another space."""

    space: Id = Field(description="Id of the space of the embeddings.")
    bridge: Bridge = DEFAULT_BRIDGE
    encoding_format: EncodingFormat = "float"
    scale: Scale | None = None
    embeddings: Rows = Field(description="(n, d) float32.")
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
    example: ClassVar[dict[str, Any]] = {"items": ["how do I reset my card?"], "target": "use"}

    @model_validator(mode="after")
    def _uses_all(self) -> Self:
        if self.target is None:
            self.check_unused(("bridge",), "a target")
        return self


class StitchRequest(TopMixin, ItemsMixin):
    """Raw inputs to embed, translate and classify."""

    bridge: Bridge = DEFAULT_BRIDGE
    truncate: Truncate = None
    input_type: InputType = None
    example: ClassVar[dict[str, Any]] = {"items": ["how do I reset my card?"], "top": 3}
