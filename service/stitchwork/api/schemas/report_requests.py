"""Request bodies of reports: a choice of anchors, and the evaluation of a head."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from stitchwork.api.content import json
from stitchwork.api.schemas.fields import (
    Bool,
    Bridge,
    Float,
    Id,
    InputType,
    Int,
    Items,
    Rows,
    Targets,
    Truncate,
    limits_of,
)
from stitchwork.api.schemas.request_model import EncodingFormat, RequestModel
from stitchwork.api.validation_errors import field_error
from stitchwork.errors import InvalidInputError, MalformedInputError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE


def _parse_list(value: Any, info: ValidationInfo) -> Any:
    """Parse a list that a form or a query has as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.parse(value.encode(), limits_of(info), strict=True)
    except (MalformedInputError, UnicodeEncodeError) as error:
        raise ValueError('expected a JSON list such as ["a", "b"]') from error
    except InvalidInputError as error:
        raise field_error(error) from error


class ChooseAnchorsRequest(RequestModel):
    """A pool of embeddings of one encoder to choose anchors from."""

    count: Int = Field(ge=1, le=4096, description="Largest number of rows to choose.")
    space: Id | None = Field(
        None, description="A space of the same encoder: its anchors count as chosen."
    )
    encoding_format: EncodingFormat = "float"
    embeddings: Rows = Field(description="(n, d) float32.")
    example: ClassVar[dict[str, Any]] = {
        "count": 2,
        "embeddings": [[0.01, -0.02, 0.03], [0.02, 0.01, -0.01]],
    }


class NearestAnchorsRequest(RequestModel):
    """Embeddings of a space whose nearest anchors are wanted."""

    count: Int = Field(5, ge=1, le=100, description="Number of anchors for each row.")
    encoding_format: EncodingFormat = "float"
    embeddings: Rows = Field(description="(n, d) float32.")
    example: ClassVar[dict[str, Any]] = {"count": 3, "embeddings": [[0.01, -0.02, 0.03]]}


class HeadEvaluationRequest(RequestModel):
    """A labelled sample to evaluate a head on: raw inputs, or their embeddings."""

    labels: Annotated[Targets, BeforeValidator(_parse_list)] = Field(
        description="The true label of each input; for a multi-label head a list of labels; for a "
        "regression a number, or a list with one for each value.",
    )
    bridge: Bridge = DEFAULT_BRIDGE
    encoding_format: EncodingFormat = "float"
    items: Items | None = Field(None, description="Texts, or image files in base64.")
    embeddings: Rows | None = Field(
        None, description="(n, d) float32 of the encoder's space, instead of items."
    )
    native_embeddings: Rows | None = Field(
        None, description="(n, d) float32 of the same inputs in the head's own space."
    )
    truncate: Truncate = None
    input_type: InputType = None
    calibrate: Bool = Field(
        False, description="Calibrate the confidence of further predictions on it."
    )
    min_accuracy: Annotated[Float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Accuracy that predictions are to have: the response has the confidence from "
        "which on they do, to send as `min_confidence`. The head must not have been trained on the "
        "sample.",
    )
    example: ClassVar[dict[str, Any]] = {
        "items": ["money back please", "I lost my card"],
        "labels": ["refund", "card"],
        "calibrate": False,
    }

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.items is None) == (self.embeddings is None):
            raise ValueError("expected either embeddings or items")
        if self.items is None:
            self.check_unused(("input_type", "truncate"), "items")
        elif self.native_embeddings is None:
            self.check_unused(("encoding_format",), "embeddings")
        for name in ("items", "embeddings", "native_embeddings"):
            rows = getattr(self, name)
            if rows is not None and len(rows) != len(self.labels):
                raise ValueError(
                    f"expected {len(rows)} labels, one each for {name}, got {len(self.labels)}"
                )
        return self
