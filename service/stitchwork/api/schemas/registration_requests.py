"""Request bodies that register anchor sets, spaces and heads."""

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import (
    Field,
    model_validator,
)

from stitchwork.api.schemas.fields import (
    Float,
    Id,
    Int,
    Items,
    Labels,
    Names,
    Row,
    Rows,
    max_length,
)
from stitchwork.api.schemas.items import decode_items
from stitchwork.api.schemas.request_model import EncodingFormat, RequestModel
from stitchwork.errors import InputTooLargeError, InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_LANDMARKS, DEFAULT_WHITENING
from stitchwork.geometry.classifier import Classifier
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.resources import (
    Arrays,
    BridgeParameters,
    EncoderSpec,
    Floats,
    Item,
    Modality,
    pack_items,
)


class AnchorSetRequest(RequestModel):
    """Declares k ordered anchors by their items, by their ids, or only by their number."""

    modality: Modality = "vector"
    items: Items | None = None
    ids: Names | None = None
    size: Int | None = Field(None, ge=2)
    example: ClassVar[dict[str, Any]] = {
        "modality": "text",
        "items": ["a red fox", "the stock market", "how do I pay?"],
    }

    def decoded(self, most: int) -> list[Item] | None:
        """The items as bytes or texts.

        Raises:
            InputTooLargeError: If there are more than `most` anchors.
            InvalidInputError: If one is not of the modality.
        """
        if (self.size or 0) > most:
            told = f"expected at most {most} anchors (max_anchors), got {self.size}"
            raise InputTooLargeError(told, pointer="/size")
        if self.items is None:
            return None
        if self.modality == "vector":
            raise InvalidInputError(
                "modality: expected text or image for items", pointer="/modality"
            )
        return decode_items(self.items, self.modality, most, "max_anchors")


class RidgeParameters(RequestModel):
    """The ridge bridge's parameter."""

    shrinkage: Float | None = Field(None, description="null: the rule of the method.")


class IrpParameters(RequestModel):
    """The irp bridge's parameters."""

    delta: Float = Field(0.8, description="Least distance between kept anchors.")
    omega: Int = Field(8, description="Number of anchor subspaces.")


class ExpParameters(RequestModel):
    """The parameters of the exp bridge; whitening is that of ridge-whitened too."""

    whitening: Float = Field(
        DEFAULT_WHITENING, description="0: best cosine; more: better retrieval."
    )
    landmarks: Int = Field(
        DEFAULT_LANDMARKS, description="Anchors that a row is compared with, at most."
    )


class SpaceRequest(RequestModel):
    """Registers a space by its anchors, or by an encoder that embeds its set's items."""

    anchor_set: Id
    encoding_format: EncodingFormat = "float"
    anchors: Rows | None = None
    ids: Names | None = None
    encoder: EncoderSpec | None = None
    ridge: RidgeParameters = RidgeParameters()
    irp: IrpParameters = IrpParameters()
    exp: ExpParameters = ExpParameters()
    example: ClassVar[dict[str, Any]] = {
        "anchor_set": "faq",
        "encoder": {"kind": "transformers", "model": "sentence-transformers/all-MiniLM-L6-v2"},
    }

    def declaration(self, id_: str) -> SpaceDeclaration:
        """What is declared of the space with this id."""
        parameters = BridgeParameters(
            shrinkage=self.ridge.shrinkage, **self.irp.model_dump(), **self.exp.model_dump()
        )
        parameters.checked()
        return SpaceDeclaration(
            id_, self.anchor_set, self.encoder, self.anchors, self.ids, parameters
        )


class NewSpaceRequest(SpaceRequest):
    """The same, with the id in the body."""

    id: Id


class LinearLayer(RequestModel):
    """One linear layer: weight (out, in), bias (out,)."""

    weight: Rows
    bias: Row | None = None


class TrainingData(RequestModel):
    """What a linear head is fitted on: one label for each embedding or raw input."""

    labels: Annotated[Labels, Field(min_length=2)]
    encoding_format: EncodingFormat = "float"
    embeddings: Rows | None = None
    items: Items | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = [rows for rows in (self.embeddings, self.items) if rows is not None]
        if len(given) != 1:
            raise ValueError("expected either embeddings or items")
        if len(set(self.labels)) < 2:
            raise ValueError("expected labels of at least two classes, got one")
        if len(given[0]) != len(self.labels):
            raise ValueError(f"expected {len(given[0])} labels, one each, got {len(self.labels)}")
        return self

    def inputs(self, modality: Modality, most: int) -> tuple[Arrays, list[str], int]:
        """Arrays to keep, the distinct labels, and how many items there are to embed."""
        names = sorted(set(self.labels))
        place = {name: i for i, name in enumerate(names)}
        classes = np.array([place[name] for name in self.labels], np.int64)
        if self.items is None:
            rows: Floats = self.embeddings  # type: ignore[assignment]
            return {"embeddings": rows, "classes": classes}, names, 0
        items = decode_items(self.items, modality, most, "max_rows")
        return {**pack_items(items), "classes": classes}, names, len(items)


class HeadRequest(RequestModel):
    """Registers a head in a space: weights, a pretrained model's classifier, or data to fit on."""

    space: Id
    labels: Labels | None = None
    weight: Rows | None = None
    bias: Row | None = None
    layers: (
        Annotated[
            list[LinearLayer],
            Field(min_length=1),
            max_length("max_head_layers", "layers"),
        ]
        | None
    ) = None
    activation: str = "relu"
    classifier: EncoderSpec | Literal[True] | None = Field(
        None, description="Model to take the classifier from; true: the space's own encoder."
    )
    fit: TrainingData | None = None
    example: ClassVar[dict[str, Any]] = {
        "space": "minilm",
        "labels": ["refund", "card lost"],
        "weight": [[0.1, -0.2], [-0.1, 0.2]],
        "bias": [0.0, 0.1],
    }

    @model_validator(mode="before")
    @classmethod
    def _from_tensors(cls, value: Any) -> Any:
        """Tensors named as in a torch Sequential, or embeddings to fit on, become fields."""
        if not isinstance(value, dict):
            return value
        named = {key: array for key, array in value.items() if isinstance(array, np.ndarray)}
        value = {key: part for key, part in value.items() if key not in named}
        if "embeddings" in named:
            value["fit"] = {
                "embeddings": named.pop("embeddings"),
                "labels": value.pop("labels", []),
            }
        numbers = sorted({int(key.split(".")[0]) for key in named if key.split(".")[0].isdecimal()})
        if numbers:
            value["layers"] = [
                {
                    part: named.pop(f"{n}.{part}")
                    for part in ("weight", "bias")
                    if f"{n}.{part}" in named
                }
                for n in numbers
            ]
        return {**value, **named}

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        kinds = {name: getattr(self, name) for name in ("weight", "layers", "classifier", "fit")}
        given = [name for name, part in kinds.items() if part is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected one of {', '.join(kinds)}, got {' and '.join(given) or 'none'}"
            )
        if given[0] in ("weight", "layers") and self.labels is None:
            raise ValueError("expected labels, one for each class")
        return self

    def layered(self) -> Classifier | None:
        """The weights as a classifier; None if the head is not given by weights."""
        layers = self.layers
        if self.weight is not None:
            layers = [LinearLayer.model_construct(weight=self.weight, bias=self.bias)]
        if layers is None:
            return None
        pairs = []
        for layer in layers:
            zeros = np.zeros(len(layer.weight), np.float32)
            pairs.append((layer.weight, zeros if layer.bias is None else layer.bias))
        return Classifier(tuple(pairs), self.activation)


class NewHeadRequest(HeadRequest):
    """The same, with the id in the body."""

    id: Id
