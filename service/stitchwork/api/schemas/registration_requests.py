"""Request bodies that register anchor sets, spaces and heads."""

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import (
    Field,
    model_validator,
)

from stitchwork.api.content.validation import check_count
from stitchwork.api.schemas.fields import (
    Bool,
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
from stitchwork.errors import InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_LANDMARKS, DEFAULT_WHITENING
from stitchwork.geometry.classifier import (
    ACTIVATIONS,
    Activation,
    Classifier,
    expand_binary,
)
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
    """Declares k ordered anchors by their items, by their ids, or by their number alone."""

    modality: Modality = Field(
        "vector", description="What the items are; `vector` for sets without items."
    )
    items: Items | None = Field(None, description="Texts, or image files in base64.")
    ids: Names | None = Field(None, description="Ids of the anchors, in the order of the items.")
    size: Int | None = Field(None, ge=2, description="Number of anchors, k.")
    example: ClassVar[dict[str, Any]] = {
        "modality": "text",
        "items": ["a red fox", "the stock market", "how do I pay?"],
    }

    def decode_items(self, max_anchors: int) -> list[Item] | None:
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
    anchors: Rows | None = Field(None, description="(k, d) float32.")
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


class LinearLayer(RequestModel):
    """One linear layer: weight (out, in), bias (out,)."""

    weight: Rows
    bias: Row | None = None


class TrainingData(RequestModel):
    """Data to fit a linear head on: one label for each embedding or raw input."""

    labels: Annotated[Labels, Field(min_length=2, description="One label for each input.")]
    encoding_format: EncodingFormat = "float"
    embeddings: Rows | None = Field(None, description="(n, d) float32.")
    items: Items | None = Field(
        None, description="Texts or image files in base64, instead of embeddings."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        inputs = self.items if self.embeddings is None else self.embeddings
        if inputs is None or (self.embeddings is not None and self.items is not None):
            raise ValueError("expected either embeddings or items")
        if len(set(self.labels)) < 2:
            raise ValueError("expected labels of at least two classes, got one")
        if len(inputs) != len(self.labels):
            raise ValueError(f"expected {len(inputs)} labels, one each, got {len(self.labels)}")
        return self

    def pack(self, modality: Modality, max_rows: int) -> tuple[Arrays, list[str], int]:
        """The data as a registration stores it.

        Returns:
            Arrays of the inputs and `classes`, the distinct labels in order, and the number of
            items to embed.

        Raises:
            InputTooLargeError: If there are more than `max_rows` items.
            InvalidInputError: If an item is not of the modality.
        """
        labels = sorted(set(self.labels))
        indices = {label: i for i, label in enumerate(labels)}
        classes = np.array([indices[label] for label in self.labels], np.int64)
        if self.items is None:
            rows: Floats = self.embeddings  # type: ignore[assignment]
            return {"embeddings": rows, "classes": classes}, labels, 0
        items = decode_items(self.items, modality, max_rows, "max_rows")
        return {**pack_items(items), "classes": classes}, labels, len(items)


class HeadRequest(RequestModel):
    """Registers a head in a space: weights, a pretrained model's classifier, or data to fit on."""

    space: Id = Field(description="Id of the space that the head takes embeddings of.")
    labels: Labels | None = Field(
        None,
        description="One label for each class, with weights; two for a single score. Integers and "
        "booleans are stored as their JSON text.",
    )
    weight: Rows | None = Field(
        None,
        description="(c, d) of a linear head; (1, d) with two labels for a binary one, whose score "
        "is the logit of the second label.",
    )
    bias: Row | None = Field(None, description="(c,) of a linear head; unset: zeros.")
    layers: (
        Annotated[
            list[LinearLayer],
            Field(min_length=1),
            max_length("max_head_layers", "layers"),
        ]
        | None
    ) = None
    activation: str | list[str] | None = Field(
        None,
        description="Activation between `layers`, or a list with one between each two; required "
        f"for two layers or more: {', '.join(ACTIVATIONS)}.",
    )
    classifier: EncoderSpec | Literal[True] | None = Field(
        None, description="Model to take the classifier from; true: the space's own encoder."
    )
    fit: TrainingData | None = Field(None, description="Data to fit a linear head on.")
    example: ClassVar[dict[str, Any]] = {
        "space": "minilm",
        "labels": ["refund", "card lost"],
        "weight": [[0.1, -0.2], [-0.1, 0.2]],
        "bias": [0.0, 0.1],
    }

    @model_validator(mode="before")
    @classmethod
    def _from_tensors(cls, value: Any) -> Any:
        """Make fields of the tensors of a torch Sequential, or of embeddings to fit on."""
        if not isinstance(value, dict):
            return value
        tensors = {key: array for key, array in value.items() if isinstance(array, np.ndarray)}
        fields = {key: field for key, field in value.items() if key not in tensors}
        if "embeddings" in tensors:
            fields["fit"] = {
                "embeddings": tensors.pop("embeddings"),
                "labels": fields.pop("labels", []),
            }
        prefixes = {key.split(".")[0] for key in tensors}
        numbers = sorted({int(prefix) for prefix in prefixes if prefix.isdecimal()})
        if numbers:
            fields["layers"] = [
                {
                    name: tensors.pop(f"{n}.{name}")
                    for name in ("weight", "bias")
                    if f"{n}.{name}" in tensors
                }
                for n in numbers
            ]
        return {**fields, **tensors}

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        kinds = ("weight", "layers", "classifier", "fit")
        present = [name for name in kinds if getattr(self, name) is not None]
        if len(present) != 1:
            raise ValueError(
                f"expected one of {', '.join(kinds)}, got {' and '.join(present) or 'none'}"
            )
        if present[0] in ("weight", "layers") and self.labels is None:
            raise ValueError("expected labels, one for each class")
        return self

    def weights_classifier(self) -> Classifier | None:
        """The weights as a classifier; None if the head is registered by other means.

        Raises:
            InvalidInputError: If two or more layers have no activation, the shapes do not fit each
                other, or a single score does not have two labels.
        """
        layers = self.layers
        if self.weight is not None:
            layers = [LinearLayer.model_construct(weight=self.weight, bias=self.bias)]
        if layers is None:
            return None
        pairs = []
        for layer in layers:
            zeros = np.zeros(len(layer.weight), np.float32)
            pairs.append((layer.weight, zeros if layer.bias is None else layer.bias))
        if self.activation is None and len(pairs) > 1:
            raise InvalidInputError(
                f"expected an activation for a head of {len(pairs)} layers, one of "
                f"{', '.join(ACTIVATIONS)}; got none",
                pointer="/activation",
            )
        classifier = Classifier(tuple(pairs), self._uniform_activation(len(pairs)))
        if classifier.n_classes > 1:
            return classifier
        if len(self.labels or ()) != 2:
            raise InvalidInputError(
                "expected two labels for a head with a single score, the negative class first, "
                f"got {len(self.labels or ())}",
                pointer="/labels",
            )
        return expand_binary(classifier)

    def _uniform_activation(self, count: int) -> Activation:
        """The activation of `count` layers, so that equal heads have equal versions.

        A list of equal names becomes one name; without effect, between no layers, it is `relu`.
        """
        names = self.activation
        if names is None or (not names and count == 1):
            return "relu"
        if isinstance(names, str):
            return names
        is_uniform = len(set(names)) == 1 and len(names) == count - 1
        return names[0] if is_uniform else tuple(names)


class NewHeadRequest(HeadRequest):
    """Registers a head, with its id in the body."""

    id: Id = Field(description="Id to register it by.")
