"""Logs: one JSON object a line on standard error, which names the request it was written for."""

import logging
import sys
from typing import Final

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from stitchwork.telemetry.request_context import RequestIdFilter

NOISY: Final = ("httpx", "httpcore", "uvicorn.access", "urllib3")
"""Their own lines repeat ours, or hold what must not be logged, such as URLs with keys."""


def configure(level: str) -> None:
    """Log as JSON, from this severity on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            timestamp=True,
            # What uvicorn would say to a terminal.
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
            rename_fields={"levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
