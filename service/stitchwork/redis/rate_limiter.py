"""How often a key may ask: sliding windows, counted on the queue server for all replicas.

A request counts as one whatever it holds, for what it may hold is bounded by limits of its own.
While the queue server is away nobody is refused for having asked too often, and a metric counts:
raw inputs cannot be served then anyway, and a cache that is away should not take with it what needs
no cache.
"""

import logging
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from limits import RateLimitItem, parse_many
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from stitchwork.errors import InvalidInputError, QueueUnavailableError
from stitchwork.redis.client import PREFIX, RedisClient
from stitchwork.resources import ApiKey, Scope
from stitchwork.telemetry import Metrics

log = logging.getLogger(__name__)

NOBODY: Final = "-"
"""Whom requests without a key count for; no key has this name."""


def parsed(text: str) -> list[RateLimitItem]:
    """Rates such as `100/minute;5000/day`, the shortest window first.

    Raises:
        InvalidInputError: If they say anything else.
    """
    try:
        return sorted(parse_many(text), key=lambda rate: rate.get_expiry())
    except ValueError as error:
        raise InvalidInputError(
            f"expected rates such as 100/minute;5000/day, got {text[:80]!r}"
        ) from error


class RateLimitStatus(NamedTuple):
    """Where a key stands with one of its rates."""

    allowed: bool
    most: int
    window: int
    left: int
    reset: float

    @property
    def headers(self) -> dict[str, str]:
        """The same, as draft-ietf-httpapi-ratelimit-headers has it."""
        return {
            "RateLimit-Policy": f'"requests";q={self.most};w={self.window}',
            "RateLimit": f'"requests";r={self.left};t={self.reset:.0f}',
        }


class RateLimiter:
    """Counts what each key asks.

    Args:
        server: The queue server.
        rates: What a key may ask, by the scope that its requests need.
        metrics: Where requests that were let through uncounted are seen.

    Raises:
        InvalidInputError: If a rate says nothing.
    """

    def __init__(
        self, server: RedisClient, rates: Mapping[Scope, str], metrics: Metrics | None = None
    ) -> None:
        self._server = server
        self._rates = {scope: parsed(text) for scope, text in rates.items()}
        self._own: dict[str, list[RateLimitItem]] = {}
        storage = RedisStorage(
            "redis://",
            connection_pool=server.redis.connection_pool,
            key_prefix=PREFIX + "rates",
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._metrics = metrics or Metrics()
        self._unchecked = 0

    def limits(self, key: ApiKey | None, scope: Scope) -> bool:
        """Whether such a request counts at all."""
        return bool(self._of(key, scope)[1])

    def hit(self, key: ApiKey | None, scope: Scope) -> RateLimitStatus | None:
        """Count one request; blocks for two short calls to the server for each rate.

        Args:
            key: Whose it is; requests without a key count together.
            scope: What it needs.

        Returns:
            The first rate that is spent or else the one nearest to it; None if it was not counted.
        """
        what, rates = self._of(key, scope)
        who = key.name if key else NOBODY
        found: list[RateLimitStatus] = []
        try:
            with self._server.session():
                for rate in rates:
                    allowed = self._limiter.hit(rate, who, what)
                    reset, left = self._limiter.get_window_stats(rate, who, what)
                    after = max(0.0, reset - time.time())
                    found.append(
                        RateLimitStatus(allowed, rate.amount, rate.get_expiry(), left, after)
                    )
                    if not allowed:
                        return found[-1]
        except QueueUnavailableError as error:
            self._metrics.unchecked_requests.inc()
            self._unchecked += 1
            if self._unchecked == 1 or self._unchecked % 1000 == 0:
                told = {"unchecked": self._unchecked, "reason": error.message}
                log.warning("rate limits not enforced", extra=told)
            return None
        return min(found, key=lambda standing: standing.left / standing.most, default=None)

    def _of(self, key: ApiKey | None, scope: Scope) -> tuple[str, list[RateLimitItem]]:
        if key is None or key.limit is None:
            return scope, self._rates.get(scope, [])
        if key.limit not in self._own:
            self._own[key.limit] = parsed(key.limit)
        return "own", self._own[key.limit]
