"""Authentication and authorization of requests, by the table of `stitchwork.api.access`."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from stitchwork.errors import (
    AuthenticationError,
    InsufficientScopeError,
    StitchworkError,
)
from stitchwork.redis.rate_limiter import CURRENT, RateLimiter
from stitchwork.registry.api_key_cache import ApiKeyCache
from stitchwork.resources import ApiKey
from stitchwork.resources import Scope as KeyScope


def request_key(request: HTTPConnection) -> ApiKey | None:
    """The key by which a request was admitted; None if it needs none."""
    key: ApiKey | None = request.scope["state"].get("key")
    return key


def require_scope(request: HTTPConnection, scope: KeyScope) -> None:
    """Require a scope that only a part of a route's requests needs.

    Raises:
        InsufficientScopeError: If the request's key does not have it.
    """
    key = request_key(request)
    if key is not None and not key.opens([scope]):
        raise _insufficient_scope(key, [scope])


@dataclass(slots=True)
class Admission:
    """Whether and how one request is admitted.

    Attributes:
        scopes: The scopes of which it needs one; none if it needs no key.
        token: The key that it presents; empty if there is none.
        key: Its key, once it is admitted by one.
        headers: Headers for its response, whether it is admitted or refused.
    """

    scopes: tuple[KeyScope, ...]
    token: str
    key: ApiKey | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Authorizer:
    """Admits a request if its key has a required scope, or if no keys are set.

    Args:
        keys: The API keys.
        rate_limiter: Counts requests of each key.
    """

    def __init__(self, keys: ApiKeyCache, rate_limiter: RateLimiter) -> None:
        self._keys = keys
        self._rate_limiter = rate_limiter
        self._refresh: asyncio.Future[None] | None = None
        self._next_refresh = 0.0

    async def admit(self, admission: Admission) -> None:
        """Admit a request, and count it for the rate limit of its key.

        Raises:
            AuthenticationError: If there is no key, or an unknown one.
            InsufficientScopeError: If the key has none of the scopes.
            RateLimitError: If the quota of the key is used up.
            RegistryUnavailableError: If the keys could not be read yet.
        """
        scopes, token = admission.scopes, admission.token
        if not scopes:
            return
        try:
            await self.authorize(admission)
            key = admission.key
            if self._rate_limiter.limits(key, scopes[0]):
                CURRENT.set((key, scopes[0]))
                await self._check_rate(key, scopes[0], admission.headers)
        except StitchworkError as error:
            admission.headers |= _challenge(error, token, scopes)
            raise

    async def authorize(self, admission: Admission) -> None:
        """Find the key of a request, which is not counted.

        Raises:
            AuthenticationError: If there is no key, or an unknown one.
            InsufficientScopeError: If the key has none of the scopes.
            RegistryUnavailableError: If the keys could not be read yet.
        """
        scopes, token = admission.scopes, admission.token
        if scopes:
            admission.key = self._authorize(await self._find(token), token, scopes)

    async def _find(self, token: str) -> ApiKey | None:
        """The key with this token; an unknown token refreshes the keys once."""
        if not token:
            return None
        key = self._keys.find(token)
        if key is None and await self._refresh_keys():
            key = self._keys.find(token)
        return key

    async def _refresh_keys(self) -> bool:
        """Read the keys again; False within `ApiKeyCache.lookup_seconds` of the last time.

        Concurrent requests share one refresh.
        """
        if self._refresh is None:
            if time.monotonic() < self._next_refresh:
                return False
            self._refresh = asyncio.ensure_future(asyncio.to_thread(self._keys.refresh))
            self._refresh.add_done_callback(self._end_refresh)
        # Shielded, because others still wait for it if this client disconnects.
        await asyncio.shield(self._refresh)
        return True

    def _end_refresh(self, _: object) -> None:
        self._refresh, self._next_refresh = None, time.monotonic() + self._keys.lookup_seconds

    def _authorize(
        self, key: ApiKey | None, token: str, scopes: tuple[KeyScope, ...]
    ) -> ApiKey | None:
        """The key that admits this request; None if no keys are set.

        Raises:
            AuthenticationError: If there is no key, or an unknown one.
            InsufficientScopeError: If the key has none of the scopes.
            RegistryUnavailableError: If the keys could not be read yet.
        """
        if key is None:
            if self._keys.is_public:
                return None
            if token:
                raise AuthenticationError(
                    "expected a valid key, got one that is unknown, removed or expired"
                )
            raise AuthenticationError(
                "expected a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`, got none, "
                "another scheme, or several"
            )
        if not key.opens(scopes):
            raise _insufficient_scope(key, scopes)
        return key

    async def _check_rate(
        self, key: ApiKey | None, scope: KeyScope, headers: dict[str, str]
    ) -> None:
        """Count a request; adds the headers that tell the client its remaining quota.

        Raises:
            RateLimitError: If the quota is used up.
        """
        status = await self._rate_limiter.hit(key, scope, requests=1)
        if status is not None:
            headers |= status.headers
            status.check(key)


def _insufficient_scope(key: ApiKey, scopes: Iterable[KeyScope]) -> InsufficientScopeError:
    return InsufficientScopeError(
        f"expected a key of scope {' or '.join(scopes)}, {key.name} has {', '.join(key.scopes)}"
    )


def _challenge(error: StitchworkError, token: str, scopes: tuple[KeyScope, ...]) -> dict[str, str]:
    """The WWW-Authenticate header of RFC 6750 for a missing, unknown or insufficient key."""
    if isinstance(error, AuthenticationError):
        fault = ', error="invalid_token"' if token else ""
        return {"WWW-Authenticate": f'Bearer realm="stitchwork"{fault}'}
    if isinstance(error, InsufficientScopeError):
        fault = f'error="insufficient_scope", scope="{" ".join(scopes)}"'
        return {"WWW-Authenticate": f'Bearer realm="stitchwork", {fault}'}
    return {}
