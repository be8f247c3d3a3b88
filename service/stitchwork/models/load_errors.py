"""Errors of the libraries that load models, as errors of this service."""

from typing import Final

from safetensors import SafetensorError

from stitchwork.errors import ErrorCode, JobFailedError
from stitchwork.resources import EncoderSpec

UNFIT_ERRORS: Final = (AttributeError, KeyError, TypeError, IndexError)
"""What the libraries raise at a model of another kind than expected; their texts say little."""
LOAD_ERRORS: Final = (
    *(OSError, ValueError, RuntimeError, ImportError, MemoryError, SafetensorError),
    *UNFIT_ERRORS,
)
"""What the libraries raise at files that they cannot load."""
MAX_REASON_CHARACTERS: Final = 300
"""Characters of a library's reason in our error."""


def convert_error(spec: EncoderSpec, error: Exception) -> JobFailedError:
    """The error of a library as ours, with the first sentence of its reason and its notes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0][:MAX_REASON_CHARACTERS] if lines else type(error).__name__
    if isinstance(error, UNFIT_ERRORS):
        reason = f"it is not a model of {spec.modality}s that its library can run ({reason})"
    reason += "".join(getattr(error, "__notes__", ()))
    return JobFailedError(f"{spec.model} cannot be loaded: {reason}", code=ErrorCode.LOAD_FAILED)
