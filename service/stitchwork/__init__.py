"""Stitchwork: any registered encoder feeds any registered classifier head, zero-shot."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stitchwork.client import AsyncStitchwork, Stitchwork
    from stitchwork.errors import StitchworkError

__version__ = "0.1.0"
__all__ = ["AsyncStitchwork", "Stitchwork", "StitchworkError", "__version__"]

_HOMES: Final = {
    "AsyncStitchwork": "stitchwork.client",
    "Stitchwork": "stitchwork.client",
    "StitchworkError": "stitchwork.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
