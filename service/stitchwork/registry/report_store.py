"""Results of reports, kept by the versions that they were computed from.

A result is not part of what is registered: it expires, it is not in a backup, and one that is lost
or cannot be read is computed again.
"""

import logging
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from stitchwork.redis.client import Check, RedisClient
from stitchwork.redis.commands import Command

log = logging.getLogger(__name__)

FORMAT: Final = 1
"""Format of the results. Those of another format are computed anew."""
RESULTS: Final = f"report:{FORMAT}"
LEASES: Final = f"report-lease:{FORMAT}"
MAX_AGE_SECONDS: Final = 30 * 24 * 3600
"""Time after which a result expires."""
LEASE_SECONDS: Final = 60.0
"""Time after which another process computes what a process that ended had begun."""


class ReportStore:
    """Results of reports on the registry server, as JSON, and who computes which.

    Args:
        server: The registry server.
        lease_seconds: Duration of a lease that is not renewed.
    """

    def __init__(self, server: RedisClient, lease_seconds: float = LEASE_SECONDS) -> None:
        self._server = server
        self._lease_ms = int(lease_seconds * 1000)
        self._owner = uuid.uuid4().hex

    def get(self, names: Iterable[str]) -> dict[str, Any]:
        """The stored results among these, by their names.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
        """
        names = list(names)
        if not names:
            return {}
        (replies,) = self._server.execute(
            ("MGET", *(self._server.key(RESULTS, name) for name in names))
        )
        results = {}
        for name, data in zip(names, replies, strict=True):
            if data is None:
                continue
            try:
                results[name] = orjson.loads(data)
            except orjson.JSONDecodeError:
                log.warning("report unreadable", extra={"report": name})
        return results

    def put(self, results: Mapping[str, Any]) -> None:
        """Store results by their names.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
        """
        self._server.execute(
            *(
                (
                    "SET",
                    self._server.key(RESULTS, name),
                    orjson.dumps(result),
                    "EX",
                    MAX_AGE_SECONDS,
                )
                for name, result in results.items()
            )
        )

    def take(self, name: str) -> bool:
        """Lease the computation of a result, unless another process has the lease.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
        """
        lease: Command = ("SET", self._server.key(LEASES, name), self._owner, "PX", self._lease_ms)
        return self._server.commit([Check(("GET", self._server.key(LEASES, name)), "")], [lease])

    def renew(self, name: str) -> None:
        """Extend a lease of this process.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
        """
        self._server.execute(
            ("SET", self._server.key(LEASES, name), self._owner, "PX", self._lease_ms)
        )

    def release(self, name: str) -> None:
        """End a lease of this process.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
        """
        own = Check(("GET", self._server.key(LEASES, name)), self._owner)
        self._server.commit([own], [("DEL", self._server.key(LEASES, name))])
