"""Request bodies of reports: which anchors come next, and the evaluation of a head."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from stitchwork.api.content import json
from stitchwork.api.problem_details import field_error
from stitchwork.api.schemas.fields import (
    Bool,
    Int,
    Items,
    Labels,
    Rows,
    limits_of,
)
from stitchwork.api.schemas.request_model import EncodingFormat, RequestModel
from stitchwork.errors import InvalidInputError, MalformedInputError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName


def _listed(value: Any, info: ValidationInfo) -> Any:
    """A list that travels in a form or in the query, as the text of its JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.parse(value.encode(), limits_of(info), strict=True)
    except (MalformedInputError, UnicodeEncodeError) as error:
        raise ValueError('expected a JSON list such as ["a", "b"]') from error
    except InvalidInputError as error:
        raise field_error(error) from error


class NextAnchorsRequest(RequestModel):
    """A pool of embeddings of one space, to take anchors from."""

    count: Int = Field(10, ge=1, le=1000, description="Rows to take at most.")
    encoding_format: EncodingFormat = "float"
    embeddings: Rows
    example: ClassVar[dict[str, Any]] = {
        "count": 2,
        "embeddings": [[0.01, -0.02, 0.03], [0.02, 0.01, -0.01]],
    }


class HeadEvaluationRequest(RequestModel):
    """A labelled sample to judge an encoder and a head by: raw inputs, or their embeddings."""

    labels: Annotated[Labels, BeforeValidator(_listed), Field(min_length=1)]
    bridge: BridgeName = DEFAULT_BRIDGE
    encoding_format: EncodingFormat = "float"
    items: Items | None = None
    embeddings: Rows | None = None
    native_embeddings: Rows | None = Field(
        None, description="The same inputs in the head's own space."
    )
    truncate: Bool | None = Field(None, description="Cut texts that are too long.")
    calibrate: Bool = Field(False, description="Learn from it how far to trust predictions.")
    example: ClassVar[dict[str, Any]] = {
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
