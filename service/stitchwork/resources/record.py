"""The base of all records."""

from typing import Final

from pydantic import BaseModel, ConfigDict

DECLARATION: Final = (
    "Digest of the declaration, if the version is a digest of more: of a model's files, and of "
    "the versions of libraries or the weights."
)


class Record(BaseModel):
    """A frozen record; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
