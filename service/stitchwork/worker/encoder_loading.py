"""How a worker loads encoders: for registrations, and for the requests of registered spaces."""

from typing import Protocol

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.resources import EncoderSpec


class EncoderLoading(Protocol):
    """Loads encoders."""

    def __call__(self, spec: EncoderSpec, *, prove: bool = False) -> LoadedEncoder:
        """The loaded encoder of a spec, compared with its own library if `prove` says so."""


def load_registered(load: EncoderLoading, spec: EncoderSpec, *, prove: bool) -> LoadedEncoder:
    """The encoder of a registered space.

    Args:
        load: Loads it.
        spec: The encoder.
        prove: Whether it must have been compared with its own library.

    Raises:
        JobFailedError: If it cannot be loaded: what this machine lacks is no fault of the request.
    """
    try:
        return load(spec, prove=prove)
    except InvalidInputError as error:
        is_specific = error.code != InvalidInputError.code
        raise JobFailedError(
            f"{spec.model} cannot be loaded by this worker: {error.message}",
            code=error.code if is_specific else ErrorCode.LOAD_FAILED,
        ) from error
