"""Records of heads, their labels and their layers."""

from typing import Annotated, Literal, TypeAlias

import orjson
from pydantic import Field, Strict

from stitchwork.geometry.classifier import SINGLE_LABEL, ProblemType
from stitchwork.resources.record import DECLARATION, Record

Label: TypeAlias = (
    Annotated[bool, Strict()]
    | Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)]
    | Annotated[str, Strict()]
)
"""A label as it was sent: a text, an integer of 64 bits or a boolean."""


def label_text(label: Label) -> str:
    """A label as text: of an integer or a boolean its JSON."""
    return label if isinstance(label, str) else orjson.dumps(label).decode()


class LinearLayer(Record):
    """A linear layer of a head."""

    kind: Literal["linear"] = "linear"
    inputs: int = Field(description="Width of its input.")
    outputs: int = Field(description="Width of its output.")


class NormLayer(Record):
    """A normalisation with weights, as those of torch in evaluation."""

    kind: Literal["layer_norm", "batch_norm"]
    eps: float = Field(1e-5, description="Added to the variance.")


class NormalizeLayer(Record):
    """Divides each row by its norm, as scikit-learn's Normalizer."""

    kind: Literal["normalize"] = "normalize"
    norm: Literal["l1", "l2", "max"] = "l2"


class LeakyReluLayer(Record):
    """A ReLU that multiplies negative numbers by a slope."""

    kind: Literal["leaky_relu"] = "leaky_relu"
    negative_slope: float = 0.01


class ActivationLayer(Record):
    """A layer that applies a function to each number; `identity` and `dropout` change nothing."""

    kind: Literal[
        "identity",
        "dropout",
        "relu",
        "tanh",
        "sigmoid",
        "log_sigmoid",
        "silu",
        "gelu",
        "gelu_tanh",
    ]


HeadLayer: TypeAlias = Annotated[
    LinearLayer | NormLayer | NormalizeLayer | LeakyReluLayer | ActivationLayer,
    Field(discriminator="kind"),
]


class Head(Record):
    """A frozen classifier or regression that lives in one space."""

    id: str
    version: str
    space: str
    dim: int
    labels: tuple[Label, ...] = Field(
        description="Names of the classes or, of a regression, of the values; as they were sent."
    )
    layers: tuple[HeadLayer, ...] = Field(description="From the embedding to the scores.")
    problem_type: ProblemType = Field(
        SINGLE_LABEL,
        description="One label (softmax), any number of labels (a sigmoid each) or values.",
    )
    thresholds: tuple[float, ...] | None = Field(
        None, description="Of a multi-label head: the score from which each label is predicted."
    )
    temperature: float | None = Field(
        None,
        description="Of the calibration that came with the head: logits are divided by it before "
        "the softmax or the sigmoids.",
    )
    source: Literal["weights", "classifier", "fit"]
    files_digest: str | None = Field(
        None, description="Digest of the model's files that the classifier was read from."
    )
    declaration: str | None = Field(None, description=DECLARATION)
    train_rows: int | None = None
    train_accuracy: float | None = None

    @property
    def parent(self) -> str | None:
        """The resource that it depends on, as `kind:id`: its space."""
        return f"space:{self.space}"
