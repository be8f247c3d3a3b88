"""The base of all request bodies."""

from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
)

EncodingFormat = Literal["float", "base64"]


class RequestModel(BaseModel):
    """A request body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    example: ClassVar[dict[str, Any]] = {}
