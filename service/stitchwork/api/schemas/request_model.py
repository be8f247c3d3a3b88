"""The base of all request bodies."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

EncodingFormat = Annotated[
    Literal["float", "base64"],
    Field(description="Encoding of rows in JSON, of the request and of the response."),
]


class RequestModel(BaseModel):
    """A request body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    example: ClassVar[dict[str, Any]] = {}
