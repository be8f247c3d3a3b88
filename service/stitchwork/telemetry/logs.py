"""Logging configuration: JSON lines on standard error, with the ids of the current requests."""

import logging
import sys
from typing import Final, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.orjson import OrjsonFormatter

from stitchwork.telemetry.request_context import RequestIdFilter

NOISY_LOGGERS: Final = ("httpx", "httpcore", "uvicorn.access", "urllib3")
"""Their records below warning repeat ours, or contain secrets such as URLs with keys."""


class JsonLinesHandler(logging.StreamHandler[TextIO]):
    """The handler that `configure` installs; it writes to what standard error is at the time.

    Who runs a command in their own process may replace standard error, and close it afterwards,
    while threads go on logging.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)


def json_lines_stream(logger: logging.Logger) -> TextIO | None:
    """The stream that a logger's records go to as JSON lines; None if they go elsewhere as well."""
    handlers = logging.getLogger().handlers
    if logger.handlers or len(handlers) != 1 or not isinstance(handlers[0], JsonLinesHandler):
        return None
    return sys.stderr


def configure(level: str) -> None:
    """Log JSON lines of this severity and above to standard error."""
    handler = JsonLinesHandler()
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(
        OrjsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            timestamp=True,
            # uvicorn repeats its messages in this attribute, with colours.
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
            rename_fields={"levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for logger in NOISY_LOGGERS:
        logging.getLogger(logger).setLevel(logging.WARNING)
