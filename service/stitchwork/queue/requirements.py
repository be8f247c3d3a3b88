"""What the jobs of an encoder require of the worker that runs them."""

from typing import NamedTuple

from stitchwork.resources import EncoderSpec


class ModelRequirement(NamedTuple):
    """A model, and the data type that it is computed in.

    Attributes:
        model: Name of the model; empty for registrations that need none.
        dtype: The data type; `auto` until the first worker chooses one.
    """

    model: str = ""
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.dtype},{self.model}"

    @classmethod
    def of(cls, encoder: EncoderSpec | None) -> "ModelRequirement":
        """What jobs of an encoder require."""
        return cls() if encoder is None else cls(encoder.model, encoder.dtype)

    @classmethod
    def parse(cls, text: str) -> "ModelRequirement":
        """The requirement of its text."""
        dtype, _, model = text.partition(",")
        return cls(model, dtype)
