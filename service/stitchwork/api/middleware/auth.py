"""Authentication and authorization of requests, by the table of `stitchwork.api.access`."""

import asyncio
import time
from collections.abc import Iterable

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stitchwork.api.access import bearer_token, required_scopes
from stitchwork.api.problem_details import send_error
from stitchwork.errors import (
    AuthenticationError,
    InsufficientScopeError,
    RateLimitError,
    StitchworkError,
)
from stitchwork.queue.caller_classes import CALLER
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.registry.api_key_cache import ApiKeyCache
from stitchwork.resources import ApiKey
from stitchwork.resources import Scope as KeyScope


def require_scope(request: HTTPConnection, scope: KeyScope) -> None:
    """Require a scope that only a part of a route's requests needs.

    Raises:
        InsufficientScopeError: If the request's key does not have it.
    """
    key: ApiKey | None = request.scope["state"].get("key")
    if key is not None and not key.opens([scope]):
        raise _insufficient_scope(key, [scope])


class AuthMiddleware:
    """Admits a request if its key has a required scope, or if no keys are set.

    Args:
        app: The next app.
        keys: The API keys.
        rate_limiter: Counts requests of each key.
        metrics_public: Whether `/metrics` needs no key.
    """

    def __init__(
        self, app: ASGIApp, keys: ApiKeyCache, rate_limiter: RateLimiter, *, metrics_public: bool
    ) -> None:
        self._app = app
        self._keys = keys
        self._rate_limiter = rate_limiter
        self._metrics_public = metrics_public
        self._refresh: asyncio.Future[None] | None = None
        self._next_refresh = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; `scope["state"]["key"]` is its key, for routes and the log."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scopes = required_scopes(
            scope["method"], scope["path"], metrics_public=self._metrics_public
        )
        if not scopes:
            await self._app(scope, receive, send)
            return
        token = bearer_token(scope)
        headers: dict[str, str] = {}
        try:
            key = self._authorize(await self._find(token), token, scopes)
            scope["state"]["key"] = key
            CALLER.set(key.name if key else str((scope.get("client") or ("",))[0]))
            if self._rate_limiter.limits(key, scopes[0]):
                await self._check_rate(key, scopes[0], headers)
        except StitchworkError as error:
            await send_error(
                error, scope, receive, send, headers | _challenge(error, token, scopes)
            )
            return
        await self._app(scope, receive, _with_headers(send, headers) if headers else send)

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
                "expected a key as `Authorization: Bearer KEY`, got none or another scheme"
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
        status = await asyncio.to_thread(self._rate_limiter.hit, key, scope)
        if status is None:
            return
        headers |= status.headers
        if not status.allowed:
            client = f"key {key.name}" if key else "clients without a key"
            source = "the limit of the key" if key and key.limit else "rate_limits"
            error = RateLimitError(
                f"expected at most {status.limit} requests of {client} in {status.window} seconds "
                f"({source}), got more"
            )
            error.retry_after = max(1.0, status.reset)
            raise error


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    """A `send` that adds headers to the response."""
    added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return send_with_headers


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
