"""The log event of a queue server that does not answer or refuses a command."""

import logging

from stitchwork.errors import UnavailableError

log = logging.getLogger(__name__)


def log_outage(error: UnavailableError, effect: str = "") -> None:
    """Log that the queue server is unavailable.

    Args:
        error: Why.
        effect: What follows from it.
    """
    extra = {"server": "queue", "reason": error.message} | ({"effect": effect} if effect else {})
    log.warning("server unavailable", extra=extra)
