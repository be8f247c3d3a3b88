"""What a failure says of its cause: in the record or the answer, and in the log."""

from stitchwork.errors import ErrorCode, StitchworkError


def describe(error: Exception) -> str:
    """The cause of an unexpected error: its type, and the module that could not be imported.

    Other texts of libraries may hold a part of an input.
    """
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, ImportError) else name


def log_fields(error: StitchworkError) -> dict[str, str]:
    """What the log says of an error: its code and, if a model cannot be loaded, why."""
    fields = {"code": str(error.code)}
    return fields | {"reason": error.message} if error.code == ErrorCode.LOAD_FAILED else fields
