"""Request bodies that register heads."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import numpy as np
from pydantic import Field, ValidationInfo, model_validator

from stitchwork.api.content.validation import check_count
from stitchwork.api.schemas.fields import (
    Float,
    Id,
    Items,
    Labels,
    Row,
    Rows,
    Weights,
    limits_of,
    max_length,
)
from stitchwork.api.schemas.items import decode_items
from stitchwork.api.schemas.request_model import EncodingFormat, RequestModel
from stitchwork.api.validation_errors import field_error
from stitchwork.errors import InputTooLargeError, InvalidInputError
from stitchwork.geometry.classifier import (
    REGRESSION,
    SINGLE_LABEL,
    Classifier,
    ProblemType,
    add_activations,
)
from stitchwork.geometry.head_layers import ACTIVATIONS, LAYER_TYPES, Layer, complete_layers
from stitchwork.registry.head_records import HeadDefinition, define_head
from stitchwork.resources import Arrays, EncoderSpec, Floats, Label, Modality, pack_items

ARRAYS: Final = ("weight", "bias", "running_mean", "running_var")
OPTIONS: Final = ("eps", "negative_slope", "norm")


class LayerRequest(RequestModel):
    """A layer of a head, as torch has it in evaluation; its kind alone may be a string."""

    kind: str = Field("linear", description=f"One of {', '.join(LAYER_TYPES)}.")
    weight: Weights | None = Field(
        None, description="(out, in) of a linear layer, (d,) of a normalisation; unset: ones."
    )
    bias: Row | None = Field(None, description="(out,) or (d,); unset: zeros.")
    running_mean: Row | None = Field(None, description="(d,) of batch_norm.")
    running_var: Row | None = Field(None, description="(d,) of batch_norm.")
    eps: Float | None = Field(None, description="Of layer_norm and batch_norm; unset: 1e-5.")
    negative_slope: Float | None = Field(None, description="Of leaky_relu; unset: 0.01.")
    norm: str | None = Field(None, description="Of normalize: l1, l2 or max; unset: l2.")

    @model_validator(mode="before")
    @classmethod
    def _from_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    def layer(self) -> Layer:
        """The layer, which is not checked yet."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        options = {name: getattr(self, name) for name in OPTIONS}
        return Layer(
            self.kind,
            {name: array for name, array in arrays.items() if array is not None},
            {name: option for name, option in options.items() if option is not None},
        )


class TrainingData(RequestModel):
    """Data to fit a linear head on: one label for each embedding or raw input."""

    labels: Labels = Field(description="One label for each input, of at least two classes.")
    encoding_format: EncodingFormat = "float"
    embeddings: Rows | None = Field(None, description="(n, d) float32.")
    items: Items | None = Field(
        None, description="Texts or image files in base64, instead of embeddings."
    )

    @model_validator(mode="after")
    def _one_of(self, info: ValidationInfo) -> Self:
        inputs = self.items if self.embeddings is None else self.embeddings
        if inputs is None or (self.embeddings is not None and self.items is not None):
            raise ValueError("expected either embeddings or items")
        if self.embeddings is None:
            self.check_unused(("encoding_format",), "embeddings")
        if len(set(self.labels)) < 2:
            raise ValueError("expected labels of at least two classes, got one")
        if len(inputs) != len(self.labels):
            raise ValueError(f"expected {len(inputs)} labels, one each, got {len(self.labels)}")
        # A fit holds a few matrices of this size, and goes over them again and again.
        scores = len(self.labels) * len(set(self.labels))
        limit = limits_of(info).max_fit_scores
        try:
            check_count(scores, limit, "scores of a fit, inputs times classes,", "max_fit_scores")
        except InputTooLargeError as error:
            raise field_error(error) from error
        return self

    def pack(self, modality: Modality, max_rows: int) -> tuple[Arrays, list[Label], int]:
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

    space: Id = Field(description="Id of the space whose embeddings the head reads.")
    labels: Labels | None = Field(
        None,
        description="One label for each class, with weights; two for a single score. Of a "
        "regression: names of its values, unset: 0, 1, …. With `classifier`: in place of the "
        "model's own. Predictions have them as they are here.",
    )
    problem_type: ProblemType | None = Field(
        None,
        description="One label of several (softmax), any number of labels (a sigmoid each) or "
        "values; unset: with `classifier` as the model's config says, else one label.",
    )
    thresholds: Float | list[Float] | None = Field(
        None,
        description="Of a multi-label head: the score from which a label is predicted, for all "
        "labels or for each; unset: 0.5.",
    )
    temperature: Float | None = Field(
        None,
        gt=0,
        description="Of a calibration that came with the head: logits are divided by it before "
        "the softmax or the sigmoids. Unset: with `classifier` as the model's config says, else 1.",
    )
    weight: Rows | None = Field(
        None,
        description="(c, d) of a linear head; (1, d) with two labels for a binary one, whose score "
        "is the logit of the second label.",
    )
    bias: Row | None = Field(None, description="(c,) of a linear head; unset: zeros.")
    layers: (
        Annotated[
            list[LayerRequest],
            Field(min_length=1),
            max_length("max_head_layers", "layers"),
        ]
        | None
    ) = Field(
        None,
        description="Layers from the embedding to the scores, each an object or the name of its "
        "kind. In safetensors the arrays of layer i are tensors `i.weight`, `i.bias`, …, and "
        "`layers` in the metadata names the kinds; without it they are linear.",
    )
    activation: str | list[str] | None = Field(
        None,
        description="Activation between the layers where all are linear, or a list with one "
        f"between each two: {', '.join(ACTIVATIONS)}. Linear layers that follow each other need "
        "it, or a layer between them.",
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
        numbered = _numbered(tensors)
        if numbered:
            fields["layers"] = _merge(fields.get("layers"), numbered)
        own = {key: array for key, array in tensors.items() if not key.split(".")[0].isdecimal()}
        return {**fields, **own}

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        kinds = ("weight", "layers", "classifier", "fit")
        present = [name for name in kinds if getattr(self, name) is not None]
        if len(present) != 1:
            raise ValueError(
                f"expected one of {', '.join(kinds)}, got {' and '.join(present) or 'none'}"
            )
        if self.fit is not None:
            fixed = ("problem_type", "thresholds", "temperature", "labels")
            excess = [name for name in fixed if getattr(self, name) is not None]
            if self.problem_type == SINGLE_LABEL:
                excess.remove("problem_type")
            if excess:
                raise ValueError(f"expected no {' and no '.join(excess)} beside fit")
        if self.layers is None:
            self.check_unused(("activation",), "layers")
        if self.weight is None:
            self.check_unused(("bias",), "a weight")
        return self

    @property
    def overrides(self) -> dict[str, Any]:
        """What the request says of a model's classifier in place of the model's files."""
        names = ("labels", "problem_type", "thresholds", "temperature")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def definition(self) -> HeadDefinition | None:
        """The head of the weights; None if it is registered by other means.

        Raises:
            InvalidInputError: If layers that need an activation between them have none, the shapes
                do not fit each other, or the labels or thresholds do not fit the outputs.
        """
        if self.weight is not None:
            only = LayerRequest.model_construct(weight=self.weight, bias=self.bias).layer()
            layers: Sequence[Layer] = [only]
        elif self.layers is not None:
            layers = self._activated([layer.layer() for layer in self.layers])
        else:
            return None
        problem_type = self.problem_type or SINGLE_LABEL
        temperature = 1.0 if self.temperature is None else self.temperature
        classifier = Classifier(complete_layers(layers), problem_type, temperature)
        if self.labels is None and problem_type != REGRESSION:
            raise InvalidInputError("expected labels, one for each class", pointer="/labels")
        return define_head(classifier, self.labels, self.thresholds)

    def _activated(self, layers: list[Layer]) -> Sequence[Layer]:
        """The layers with the activation of the request between them.

        Raises:
            InvalidInputError: If two linear layers follow each other without one, or there is one
                and not all layers are linear.
        """
        others = [layer.kind for layer in layers if layer.kind != "linear"]
        if self.activation is None:
            for i in range(1, len(layers)):
                if layers[i - 1].kind == layers[i].kind == "linear":
                    raise InvalidInputError(
                        f"expected an activation between layers {i - 1} and {i} of "
                        f"{len(layers)} layers, one of {', '.join(ACTIVATIONS)}; got none",
                        pointer="/activation",
                    )
            return layers
        if others:
            raise InvalidInputError(
                "expected either an activation between linear layers, or all layers in `layers`, "
                f"got an activation and a layer of kind {others[0][:40]}",
                pointer="/activation",
            )
        return add_activations(layers, self.activation)


class NewHeadRequest(HeadRequest):
    """Registers a head, with its id in the body."""

    id: Id = Field(description="Id to register it by.")


def _numbered(tensors: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The tensors of each layer, such as `0.weight`, by their names in it."""
    layers: dict[int, dict[str, Any]] = {}
    for key, array in tensors.items():
        number, dot, name = key.partition(".")
        if dot and number.isdecimal():
            layers.setdefault(int(number), {})[name] = array
    return layers


def _merge(layers: Any, arrays: dict[int, dict[str, Any]]) -> Any:
    """The layers of a request with their tensors; without layers they are linear.

    Raises:
        InvalidInputError: If there are tensors for a layer that the request does not have.
    """
    if layers is None:
        # torch numbers activations too, which have no tensors.
        return [arrays[number] for number in sorted(arrays)]
    if not isinstance(layers, list):
        return layers
    last = max(arrays)
    if last >= len(layers):
        raise field_error(
            InvalidInputError(
                f"expected tensors of {len(layers)} layers, as `layers` has, got those of layer "
                f"{last}"
            )
        )
    merged: list[Any] = []
    for i, layer in enumerate(layers):
        fields = {"kind": layer} if isinstance(layer, str) else layer
        is_object = isinstance(fields, dict)
        merged.append({**fields, **arrays.get(i, {})} if is_object else fields)
    return merged
