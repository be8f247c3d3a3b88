"""Rate limits by API key: sliding windows on the queue server, for all API processes together.

A process takes permits from the server in blocks and spends them without asking it. While the queue
server is unavailable no request is refused for its rate, and a metric counts the requests that were
not checked: raw inputs cannot be served then anyway, and translation needs no queue.
"""

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, NamedTuple

from cachetools import LRUCache

from stitchwork.errors import InputTooLargeError, QueueUnavailableError, RateLimitError
from stitchwork.redis.client import RedisClient
from stitchwork.redis.permits import Permits
from stitchwork.redis.rates import Rate, RateUnit, parse_rates
from stitchwork.resources import ApiKey, Scope
from stitchwork.telemetry import Metrics

log = logging.getLogger(__name__)

ANONYMOUS: Final = "-"
"""The name that requests without a key count for; no key has it."""
MAX_PERMITS: Final = 65_536
"""Rates of keys that a process has permits of."""


class RateLimitStatus(NamedTuple):
    """The state of one rate of a key.

    Attributes:
        allowed: Whether the request is within the rate.
        rate: The rate.
        remaining: What is left of it in the current window.
        reset: Seconds until the window ends.
    """

    allowed: bool
    rate: Rate
    remaining: int
    reset: float

    @property
    def headers(self) -> dict[str, str]:
        """The headers of draft-ietf-httpapi-ratelimit-headers."""
        limit, unit, window = self.rate
        return {
            "RateLimit-Policy": f'"{unit}";q={limit};w={window}',
            "RateLimit": f'"{unit}";r={self.remaining};t={self.reset:.0f}',
        }

    def check(self, key: ApiKey | None) -> None:
        """Raise if the request is not within the rate.

        Args:
            key: Its key.

        Raises:
            RateLimitError: If it is not.
        """
        if self.allowed:
            return
        error = RateLimitError(f"{_expectation(self.rate, key)}, got more")
        error.retry_after = max(1.0, self.reset)
        raise error


def _expectation(rate: Rate, key: ApiKey | None) -> str:
    limit, unit, window = rate
    client = f"key {key.name}" if key else "clients without a key"
    source = "the limit of the key" if key and key.limit else "rate_limits"
    return f"expected at most {limit} {unit} of {client} in {window} seconds ({source})"


class RateLimiter:
    """Counts what the requests of each key use.

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
        self._rates_by_text: dict[str, tuple[Rate, ...]] = {}
        self._permits: LRUCache[tuple[str, str, Rate], Permits] = LRUCache(MAX_PERMITS)
        self._metrics = metrics or Metrics()
        self._unchecked = 0

    def limits(self, key: ApiKey | None, scope: Scope) -> bool:
        """Whether a request of this key that needs this scope has a rate."""
        return bool(self._rates_of(key, scope)[1])

    async def hit(self, key: ApiKey | None, scope: Scope, **amounts: int) -> RateLimitStatus | None:
        """Count what a request uses: without a call to the server while there are permits.

        Args:
            key: The key of the request; requests without a key count together.
            scope: The scope that it needs.
            amounts: What it uses, by the unit of a rate.

        Returns:
            The first rate that is used up or else the one closest to it; None if nothing was
            counted.
        """
        namespace, rates = self._rates_of(key, scope)
        statuses: list[RateLimitStatus] = []
        for rate in rates:
            count = amounts.get(rate.unit, 0)
            if not count:
                continue
            permits = self._permits_of(key.name if key else ANONYMOUS, namespace, rate)
            try:
                allowed = permits.spend(count)
                if allowed is None:
                    allowed = await permits.take(count)
            except QueueUnavailableError as error:
                self._count_unchecked(error)
                return None
            reset = permits.reset_seconds
            statuses.append(RateLimitStatus(allowed, rate, permits.remaining, reset))
            if not allowed:
                return statuses[-1]
        return min(statuses, key=lambda status: status.remaining / status.rate.limit, default=None)

    async def charge(self, **amounts: int) -> None:
        """Count what the current request uses beside itself, by the unit of a rate.

        Raises:
            InputTooLargeError: If it uses more than the whole of a rate.
            RateLimitError: If a rate is used up.
        """
        current = CURRENT.get()
        if current is None:
            return
        self.check_size(**amounts)
        key, scope = current
        status = await self.hit(key, scope, **amounts)
        if status is not None:
            status.check(key)

    def check_size(self, **amounts: int) -> None:
        """Refuse what the current request is to use, if no time to wait would be long enough.

        Args:
            amounts: What it is to use, by the unit of a rate.

        Raises:
            InputTooLargeError: If it is more than the whole of a rate.
        """
        current = CURRENT.get()
        if current is None:
            return
        for rate in self._rates_of(*current)[1]:
            amount = amounts.get(rate.unit, 0)
            if amount > rate.limit:
                expectation = _expectation(rate, current[0])
                raise InputTooLargeError(f"{expectation}, got a request of {amount}")

    def units(self) -> set[RateUnit]:
        """The units of the current request's rates."""
        current = CURRENT.get()
        return {rate.unit for rate in self._rates_of(*current)[1]} if current else set()

    def _permits_of(self, name: str, namespace: str, rate: Rate) -> Permits:
        place = (name, namespace, rate)
        permits = self._permits.get(place)
        if permits is None:
            permits = self._permits[place] = Permits(self._server, f"{namespace}:{name}", rate)
        return permits

    def _count_unchecked(self, error: QueueUnavailableError) -> None:
        self._metrics.unchecked_requests.inc()
        self._unchecked += 1
        if self._unchecked == 1 or self._unchecked % 1000 == 0:
            extra = {"unchecked": self._unchecked, "reason": error.message}
            log.warning("rate limits not checked", extra=extra)

    def _rates_of(self, key: ApiKey | None, scope: Scope) -> tuple[str, tuple[Rate, ...]]:
        if key is None or key.limit is None:
            return scope, self._rates.get(scope, ())
        if key.limit not in self._rates_by_text:
            self._rates_by_text[key.limit] = parse_rates(key.limit)
        return "own", self._rates_by_text[key.limit]


CURRENT: Final[ContextVar[tuple[ApiKey | None, Scope] | None]] = ContextVar("rates", default=None)
"""The key and the scope of the current request, if it has a rate."""
