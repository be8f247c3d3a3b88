"""Rate limits by API key: sliding windows, counted on the queue server for all replicas.

A request counts as one whatever it holds, since its size has limits of its own. While the queue
server is unavailable no request is refused for its rate, and a metric counts the requests that were
not checked: raw inputs cannot be served then anyway, and translation needs no queue.
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

ANONYMOUS: Final = "-"
"""The name that requests without a key count for; no key has it."""


def parse_rates(text: str) -> list[RateLimitItem]:
    """Rates such as `100/minute;5000/day`, the shortest window first.

    Raises:
        InvalidInputError: If the text has another form.
    """
    try:
        return sorted(parse_many(text), key=lambda rate: rate.get_expiry())
    except ValueError as error:
        raise InvalidInputError(
            f"expected rates such as 100/minute;5000/day, got {text[:80]!r}"
        ) from error


class RateLimitStatus(NamedTuple):
    """The state of one rate of a key.

    Attributes:
        allowed: Whether the request is within the rate.
        limit: Requests in a window.
        window: Seconds.
        remaining: Requests that are left in the current window.
        reset: Seconds until the window is empty.
    """

    allowed: bool
    limit: int
    window: int
    remaining: int
    reset: float

    @property
    def headers(self) -> dict[str, str]:
        """The headers of draft-ietf-httpapi-ratelimit-headers."""
        return {
            "RateLimit-Policy": f'"requests";q={self.limit};w={self.window}',
            "RateLimit": f'"requests";r={self.remaining};t={self.reset:.0f}',
        }


class RateLimiter:
    """Counts the requests of each key.

    Args:
        server: The queue server.
        rates: The rates of a key, by the scope that its requests need.
        metrics: Counts requests that were not checked.

    Raises:
        InvalidInputError: If a rate cannot be parsed.
    """

    def __init__(
        self, server: RedisClient, rates: Mapping[Scope, str], metrics: Metrics | None = None
    ) -> None:
        self._server = server
        self._rates = {scope: parse_rates(text) for scope, text in rates.items()}
        self._rates_by_text: dict[str, list[RateLimitItem]] = {}
        storage = RedisStorage(
            "redis://",
            connection_pool=server.redis.connection_pool,
            key_prefix=PREFIX + "rates",
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._metrics = metrics or Metrics()
        self._unchecked = 0

    def limits(self, key: ApiKey | None, scope: Scope) -> bool:
        """Whether a request of this key that needs this scope has a rate."""
        return bool(self._rates_of(key, scope)[1])

    def hit(self, key: ApiKey | None, scope: Scope) -> RateLimitStatus | None:
        """Count one request; blocks for two short calls to the server for each rate.

        Args:
            key: The key of the request; requests without a key count together.
            scope: The scope that it needs.

        Returns:
            The first rate that is used up or else the one closest to it; None if the request was
            not counted.
        """
        namespace, rates = self._rates_of(key, scope)
        name = key.name if key else ANONYMOUS
        statuses: list[RateLimitStatus] = []
        try:
            with self._server.session():
                for rate in rates:
                    allowed = self._limiter.hit(rate, name, namespace)
                    reset_at, remaining = self._limiter.get_window_stats(rate, name, namespace)
                    reset = max(0.0, reset_at - time.time())
                    window = rate.get_expiry()
                    statuses.append(RateLimitStatus(allowed, rate.amount, window, remaining, reset))
                    if not allowed:
                        return statuses[-1]
        except QueueUnavailableError as error:
            self._count_unchecked(error)
            return None
        return min(statuses, key=lambda status: status.remaining / status.limit, default=None)

    def _count_unchecked(self, error: QueueUnavailableError) -> None:
        self._metrics.unchecked_requests.inc()
        self._unchecked += 1
        if self._unchecked == 1 or self._unchecked % 1000 == 0:
            extra = {"unchecked": self._unchecked, "reason": error.message}
            log.warning("rate limits not checked", extra=extra)

    def _rates_of(self, key: ApiKey | None, scope: Scope) -> tuple[str, list[RateLimitItem]]:
        if key is None or key.limit is None:
            return scope, self._rates.get(scope, [])
        if key.limit not in self._rates_by_text:
            self._rates_by_text[key.limit] = parse_rates(key.limit)
        return "own", self._rates_by_text[key.limit]
