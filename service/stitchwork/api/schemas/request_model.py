"""The base of all request bodies."""

from collections.abc import Sequence
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
    items_setting: ClassVar[str] = "max_items"
    """The limit that bounds the raw inputs of the body."""

    def check_unused(self, names: Sequence[str], needed: str) -> None:
        """Refuse fields that the request has and that nothing would use.

        Args:
            names: The fields.
            needed: What the request would need beside them.

        Raises:
            ValueError: If the request has one of them; null, and the encoding `float`, say nothing.
        """
        values = {name: getattr(self, name) for name in names if name in self.model_fields_set}
        if values.get("encoding_format") == "float":
            del values["encoding_format"]
        excess = [name for name, value in values.items() if value is not None]
        if excess:
            raise ValueError(f"expected {needed} with {' and '.join(excess)}, got none")
