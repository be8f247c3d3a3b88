"""Request bodies that register anchor sets and spaces."""

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from stitchwork.api.content.validation import check_count
from stitchwork.api.schemas.fields import (
    Bool,
    Float,
    Id,
    Int,
    Items,
    Names,
    Rows,
    Scale,
)
from stitchwork.api.schemas.items import decode_items
from stitchwork.api.schemas.request_model import EncodingFormat, RequestModel
from stitchwork.errors import InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_LANDMARKS, DEFAULT_WHITENING
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.resources import BridgeParameters, EncoderSpec, Input, Modality


class AnchorSetRequest(RequestModel):
    """Declares k ordered anchors by their items, by their ids, or by their number alone."""

    modality: Modality = Field(
        "vector", description="What the items are; `vector` for sets without items."
    )
    items: Items | None = Field(None, description="Texts, or image files in base64.")
    ids: Names | None = Field(None, description="Ids of the anchors, in the order of the items.")
    size: Int | None = Field(None, ge=2, description="Number of anchors, k.")
    items_setting: ClassVar[str] = "max_anchors"
    example: ClassVar[dict[str, Any]] = {
        "modality": "text",
        "items": ["a red fox", "the stock market", "how do I pay?"],
    }

    def decode_items(self, max_anchors: int) -> list[Input] | None:
        """The items as texts or as the bytes of image files; None if there are none.

        Raises:
            InputTooLargeError: If there are more than `max_anchors` anchors.
            InvalidInputError: If an item is not of the modality.
        """
        check_count(self.size or 0, max_anchors, "anchors", "max_anchors", "/size")
        if self.items is None:
            return None
        if self.modality == "vector":
            raise InvalidInputError(
                "modality: expected text or image for items", pointer="/modality"
            )
        return decode_items(self.items, self.modality, max_anchors, "max_anchors")


class RidgeParameters(RequestModel):
    """Parameters of the ridge bridge."""

    shrinkage: Float | None = Field(None, description="null: computed from the anchors.")


class IrpParameters(RequestModel):
    """Parameters of the irp bridges."""

    delta: Float = Field(0.8, description="Smallest distance between the anchors of a subspace.")
    omega: Int = Field(8, description="Number of anchor subspaces.")


class ExpParameters(RequestModel):
    """Parameters of the exp bridge; ridge-whitened has the same whitening."""

    whitening: Float = Field(
        DEFAULT_WHITENING,
        description="0 is best for cosine similarity, larger values for retrieval.",
    )
    landmarks: Int = Field(
        DEFAULT_LANDMARKS, description="Largest number of anchors that a row is compared with."
    )


class SpaceRequest(RequestModel):
    """Registers a space by its anchors, or by an encoder that embeds its set's items."""

    anchor_set: Id = Field(
        description="Id of the anchor set; the first space on an unknown set creates it."
    )
    encoding_format: EncodingFormat = "float"
    scale: Scale | None = None
    anchors: Rows | None = Field(
        None,
        description="(k, d) float32. With an encoder and a set of items that it can embed, the "
        "space is pending until a worker has found that they are the encoder's rows.",
    )
    ids: Names | None = Field(
        None, description="Ids of the anchors in the order of the rows, if the set has ids."
    )
    encoder: EncoderSpec | None = Field(
        None, description="Model that embeds raw inputs and, without `anchors`, the set's items."
    )
    unit: Bool | None = Field(
        None,
        description="Whether translations into the space are scaled to unit length; unset: if all "
        "anchors have length one within 1e-3.",
    )
    ridge: RidgeParameters = RidgeParameters()
    irp: IrpParameters = IrpParameters()
    exp: ExpParameters = ExpParameters()
    example: ClassVar[dict[str, Any]] = {
        "anchor_set": "faq",
        "encoder": {"kind": "transformers", "model": "sentence-transformers/all-MiniLM-L6-v2"},
    }

    @model_validator(mode="after")
    def _uses_all(self) -> Self:
        if self.anchors is None and (self.encoder is not None or self.scale is not None):
            self.check_unused(("encoding_format", "scale", "ids"), "anchors")
        return self

    def declaration(self, id_: str) -> SpaceDeclaration:
        """The declaration of a space with this id."""
        parameters = BridgeParameters(
            shrinkage=self.ridge.shrinkage, **self.irp.model_dump(), **self.exp.model_dump()
        )
        parameters.checked()
        return SpaceDeclaration(
            id_, self.anchor_set, self.encoder, self.anchors, self.ids, parameters, self.unit
        )


class NewSpaceRequest(SpaceRequest):
    """Registers a space, with its id in the body."""

    id: Id = Field(description="Id to register it by.")
