"""The base of all records."""

from typing import Final

from pydantic import BaseModel, ConfigDict

DECLARATION: Final = (
    "Digest of the declaration, where the version is a digest of it, of a model's files and of "
    "what computed them: versions of libraries, or weights."
)


class Record(BaseModel):
    """A frozen record; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
