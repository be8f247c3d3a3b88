"""Request and response models, with examples; what OpenAPI shows is what is validated."""

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from stitchwork.api.content import json_depth, validation
from stitchwork.api.problem_details import field_error
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
    limits_of,
    max_length,
)
from stitchwork.errors import InputTooLargeError, InvalidInputError
from stitchwork.geometry.bridges import DEFAULT, LANDMARKS, WHITENING, BridgeName
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

Encoding = Literal["float", "base64"]


class Schema(BaseModel):
    """A request body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    example: ClassVar[dict[str, Any]] = {}


def _listed(value: Any, info: ValidationInfo) -> Any:
    """A list that travels in a form or in the query, as the text of its JSON."""
    if not isinstance(value, str):
        return value
    try:
        json_depth.refuse(value.encode(), limits_of(info).max_json_depth)
        # What came beside a body is a text of a kind that orjson does not take.
        return orjson.loads(str(value))
    except InvalidInputError as error:
        raise field_error(error) from error
    except ValueError as error:
        raise ValueError('expected a JSON list such as ["a", "b"]') from error


class ItemsMixin(Schema):
    """Raw inputs: texts, or image files as base64 or as the parts of a multipart body."""

    items: Items


def decode_items(
    items: list[str | bytes], modality: Modality, most: int, setting: str = "max_items"
) -> list[Item]:
    """Raw inputs as texts or as the bytes of image files.

    Args:
        items: The inputs.
        modality: What they are.
        most: How many are taken.
        setting: What that limit is called.

    Raises:
        InputTooLargeError: If there are more than `most`.
        InvalidInputError: If one is not of that modality.
    """
    if len(items) > most:
        raise InputTooLargeError(
            f"expected at most {most} items ({setting}), got {len(items)}", pointer="/items"
        )
    return [_decode_item(item, modality, f"/items/{i}") for i, item in enumerate(items)]


def _decode_item(item: str | bytes, modality: Modality, pointer: str) -> Item:
    if modality == "text":
        try:
            text = item.decode() if isinstance(item, bytes) else item
            text.encode()
        except UnicodeError as error:
            raise InvalidInputError("expected a text of valid Unicode", pointer=pointer) from error
        if not text.strip():
            raise InvalidInputError("expected a text that is not empty", pointer=pointer)
        if "\0" in text:
            raise InvalidInputError("expected a text without NUL characters", pointer=pointer)
        return text
    return item if isinstance(item, bytes) else validation.image_bytes(item, pointer)


class AnchorSetBody(Schema):
    """Declares k ordered anchors by their items, by their ids, or only by their number."""

    modality: Modality = "vector"
    items: Items | None = None
    ids: Names | None = None
    size: Int | None = Field(None, ge=2)
    example = {"modality": "text", "items": ["a red fox", "the stock market", "how do I pay?"]}

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


class RidgeParameters(Schema):
    """The ridge bridge's parameter."""

    shrinkage: Float | None = Field(None, description="null: the rule of the method.")


class IrpParameters(Schema):
    """The irp bridge's parameters."""

    delta: Float = Field(0.8, description="Least distance between kept anchors.")
    omega: Int = Field(8, description="Number of anchor subspaces.")


class ExpParameters(Schema):
    """The parameters of the exp bridge; whitening is that of ridge-whitened too."""

    whitening: Float = Field(WHITENING, description="0: best cosine; more: better retrieval.")
    landmarks: Int = Field(LANDMARKS, description="Anchors that a row is compared with, at most.")


class SpaceBody(Schema):
    """Registers a space by its anchors, or by an encoder that embeds its set's items."""

    anchor_set: Id
    encoding_format: Encoding = "float"
    anchors: Rows | None = None
    ids: Names | None = None
    encoder: EncoderSpec | None = None
    ridge: RidgeParameters = RidgeParameters()
    irp: IrpParameters = IrpParameters()
    exp: ExpParameters = ExpParameters()
    example = {
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


class NewSpaceBody(SpaceBody):
    """The same, with the id in the body."""

    id: Id


class LayerBody(Schema):
    """One linear layer: weight (out, in), bias (out,)."""

    weight: Rows
    bias: Row | None = None


class FitBody(Schema):
    """What a linear head is fitted on: one label for each embedding or raw input."""

    labels: Annotated[Labels, Field(min_length=2)]
    encoding_format: Encoding = "float"
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


class HeadBody(Schema):
    """Registers a head in a space: weights, a pretrained model's classifier, or data to fit on."""

    space: Id
    labels: Labels | None = None
    weight: Rows | None = None
    bias: Row | None = None
    layers: (
        Annotated[
            list[LayerBody],
            Field(min_length=1),
            max_length("max_head_layers", "layers"),
        ]
        | None
    ) = None
    activation: str = "relu"
    classifier: EncoderSpec | Literal[True] | None = Field(
        None, description="Model to take the classifier from; true: the space's own encoder."
    )
    fit: FitBody | None = None
    example = {
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
            layers = [LayerBody.model_construct(weight=self.weight, bias=self.bias)]
        if layers is None:
            return None
        pairs = []
        for layer in layers:
            zeros = np.zeros(len(layer.weight), np.float32)
            pairs.append((layer.weight, zeros if layer.bias is None else layer.bias))
        return Classifier(tuple(pairs), self.activation)


class NewHeadBody(HeadBody):
    """The same, with the id in the body."""

    id: Id


class TranslateBody(Schema):
    """Embeddings of one space, to be written in another."""

    source: Id
    target: Id
    bridge: BridgeName = DEFAULT
    encoding_format: Encoding = "float"
    embeddings: Rows
    example = {"source": "minilm", "target": "use", "embeddings": [[0.01, -0.02, 0.03]]}


class ClassifyBody(Schema):
    """Embeddings of a space, to be classified by a head of this or another space."""

    space: Id
    bridge: BridgeName = DEFAULT
    encoding_format: Encoding = "float"
    embeddings: Rows
    top: Int = Field(5, ge=1, le=1000, description="Classes shown for each input.")
    example = {"space": "minilm", "embeddings": [[0.01, -0.02, 0.03]], "top": 3}


class EmbedBody(ItemsMixin):
    """Raw inputs to embed and, with a target, to translate."""

    target: Id | None = None
    bridge: BridgeName = DEFAULT
    encoding_format: Encoding = "float"
    truncate: Bool | None = Field(None, description="Cut texts that are too long.")
    example = {"items": ["how do I reset my card?"], "target": "use"}


class StitchBody(ItemsMixin):
    """Raw inputs to embed, translate and classify."""

    bridge: BridgeName = DEFAULT
    truncate: Bool | None = Field(None, description="Cut texts that are too long.")
    top: Int = Field(5, ge=1, le=1000, description="Classes shown for each input.")
    example = {"items": ["how do I reset my card?"], "top": 3}


class NextAnchorsBody(Schema):
    """A pool of embeddings of one space, to take anchors from."""

    count: Int = Field(10, ge=1, le=1000, description="Rows to take at most.")
    encoding_format: Encoding = "float"
    embeddings: Rows
    example = {"count": 2, "embeddings": [[0.01, -0.02, 0.03], [0.02, 0.01, -0.01]]}


class SampleBody(Schema):
    """A labelled sample to judge an encoder and a head by: raw inputs, or their embeddings."""

    labels: Annotated[Labels, BeforeValidator(_listed), Field(min_length=1)]
    bridge: BridgeName = DEFAULT
    encoding_format: Encoding = "float"
    items: Items | None = None
    embeddings: Rows | None = None
    native_embeddings: Rows | None = Field(
        None, description="The same inputs in the head's own space."
    )
    truncate: Bool | None = Field(None, description="Cut texts that are too long.")
    calibrate: Bool = Field(False, description="Learn from it how far to trust predictions.")
    example = {
        "items": ["money back please", "I lost my card"],
        "labels": ["refund", "card"],
        "calibrate": False,
    }

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.items is None) == (self.embeddings is None):
            raise ValueError("expected either embeddings or items")
        for name in ("items", "embeddings", "native_embeddings"):
            rows = getattr(self, name)
            if rows is not None and len(rows) != len(self.labels):
                raise ValueError(
                    f"expected {len(rows)} labels, one each for {name}, got {len(self.labels)}"
                )
        return self
