"""The limit on the file descriptors of a process."""

import logging
import resource
from contextlib import suppress

log = logging.getLogger(__name__)


def raise_descriptor_limit(count: int) -> None:
    """Raise the soft limit to a number of file descriptors, as far as the hard limit allows.

    Shells and service managers set a soft limit of 1,024 for the sake of programs that use
    `select`, and a far higher hard limit.

    Args:
        count: The descriptors that this process may need.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
    # Systems may have a lower limit than the one they report.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        soft = limit
    if soft < count:
        extra = {"limit": soft, "needed": count, "effect": "connections may be refused"}
        log.warning("file descriptors limited", extra=extra)
