"""Stitchwork: any registered encoder feeds any registered classifier head, zero-shot."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stitchwork.client import AsyncStitchwork, ServiceError, Stitchwork
    from stitchwork.errors import (
        AnchorSetMismatchError,
        AuthenticationError,
        ClientDisconnectedError,
        ConflictError,
        CorruptDataError,
        DeadlineExceededError,
        IncompatibleFormatError,
        InputTooLargeError,
        InsufficientScopeError,
        InvalidInputError,
        JobFailedError,
        MalformedInputError,
        NotReadyError,
        NoWorkerError,
        QueueFullError,
        QueueUnavailableError,
        RateLimitError,
        RegistryUnavailableError,
        ResourceInUseError,
        SlowRequestError,
        StitchworkError,
        UnavailableError,
        UnknownResourceError,
        UnsupportedFormatError,
        VersionMismatchError,
    )

__version__ = "0.2.0"
__all__ = [
    "AnchorSetMismatchError",
    "AsyncStitchwork",
    "AuthenticationError",
    "ClientDisconnectedError",
    "ConflictError",
    "CorruptDataError",
    "DeadlineExceededError",
    "IncompatibleFormatError",
    "InputTooLargeError",
    "InsufficientScopeError",
    "InvalidInputError",
    "JobFailedError",
    "MalformedInputError",
    "NoWorkerError",
    "NotReadyError",
    "QueueFullError",
    "QueueUnavailableError",
    "RateLimitError",
    "RegistryUnavailableError",
    "ResourceInUseError",
    "ServiceError",
    "SlowRequestError",
    "Stitchwork",
    "StitchworkError",
    "UnavailableError",
    "UnknownResourceError",
    "UnsupportedFormatError",
    "VersionMismatchError",
    "__version__",
]

_CLIENT: Final = ("AsyncStitchwork", "ServiceError", "Stitchwork")


def __getattr__(name: str) -> Any:
    """Import the client and the errors when they are used: a process of the service needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "stitchwork.client" if name in _CLIENT else "stitchwork.errors"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
