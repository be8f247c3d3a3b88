"""Keys and scopes: what each path needs, and who may have it.

One table says it for every method and path, whichever router serves them, and ends with a rule that
takes all that is left: whatever is added without a row of its own can be reached by `admin` alone.
"""

import asyncio
import logging
import re
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stitchwork.api.problem_details import send_error
from stitchwork.errors import (
    AuthenticationError,
    InsufficientScopeError,
    RateLimitError,
    RegistryUnavailableError,
    StitchworkError,
)
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.registry.api_keys import ApiKeyCache
from stitchwork.resources import ApiKey
from stitchwork.resources import Scope as KeyScope

log = logging.getLogger(__name__)

READ: Final = KeyScope.READ
INFER: Final = KeyScope.INFER
ADMIN: Final = KeyScope.ADMIN
LOOK_PAUSE: Final = 0.1
"""Seconds between looks for keys that are unknown: trying keys costs the registry little."""
EVERYONE: Final[tuple[KeyScope, ...]] = ()
"""No key is needed."""
SCHEME: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of `stitchwork api-keys add`, where any is set. Scopes: `read` sees what "
    "is registered, `infer` uses it, `admin` does everything.",
}


class Rule(NamedTuple):
    """What one kind of request needs."""

    methods: frozenset[str] | None
    path: re.Pattern[str]
    scopes: tuple[KeyScope, ...]


def _rule(methods: str, path: str, *scopes: KeyScope) -> Rule:
    return Rule(frozenset(methods.split()) or None, re.compile(path, re.DOTALL), scopes)


RULES: Final = (
    _rule("GET", r"(/v2)?/health/(live|ready)", *EVERYONE),
    # They say what every copy of this program says, and nothing of what is registered.
    _rule("GET", r"/docs(/oauth2-redirect)?|/redoc|/openapi\.json", *EVERYONE),
    # What clients ask before they infer.
    _rule("GET", r"/info|/v1/models(/.*)?|/v2(/.*)?", READ, INFER),
    _rule("POST", r"/v2/repository/index", READ, INFER),
    _rule("POST", r"/translate|/(classify|embed)/[^/]+|/(stitch|compatibility)/[^/]+/[^/]+", INFER),
    _rule("POST", r"/v1/embeddings|/v2/models/.+/infer", INFER),
    # A map to take home says no more than enough translated rows do.
    _rule("GET", r"/spaces/[^/]+/translations/[^/]+", INFER),
    _rule("POST", r"/spaces/[^/]+/anchors/next", READ),
    _rule("GET", r".*", READ),
    _rule("", r".*", ADMIN),
)


def required_scopes(
    method: str, path: str, *, metrics_public: bool = False
) -> tuple[KeyScope, ...]:
    """The scopes of which one opens this; none: it is open to everyone."""
    if metrics_public and path == "/metrics":
        return EVERYONE
    method = "GET" if method == "HEAD" else method
    return next(
        rule.scopes
        for rule in RULES
        if (rule.methods is None or method in rule.methods) and rule.path.fullmatch(path)
    )


def require_scope(request: HTTPConnection, scope: KeyScope) -> None:
    """Ask for a scope that only a part of a route needs.

    Raises:
        InsufficientScopeError: If the caller's key does not open it.
    """
    key: ApiKey | None = request.scope["state"].get("key")
    if key is not None and not key.opens([scope]):
        raise _wrong(key, [scope])


class AuthMiddleware:
    """Lets a request in if its key opens what it asks for, or if no keys are set.

    Args:
        app: What is guarded.
        ring: The keys.
        rates: How often they may ask.
        metrics_public: Whether `/metrics` needs no key.
    """

    def __init__(
        self, app: ASGIApp, ring: ApiKeyCache, rates: RateLimiter, *, metrics_public: bool
    ) -> None:
        self._app = app
        self._ring = ring
        self._rates = rates
        self._metrics_open = metrics_public
        self._look: asyncio.Future[None] | None = None
        self._may_look = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; its state names the key, for routes and for the log."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scopes = required_scopes(scope["method"], scope["path"], metrics_public=self._metrics_open)
        if not scopes:
            await self._app(scope, receive, send)
            return
        presented = _presented(scope)
        told: dict[str, str] = {}
        try:
            key = self._admit(await self._find(presented), presented, scopes)
            scope["state"]["key"] = key
            if self._rates.limits(key, scopes[0]):
                await self._count(key, scopes[0], told)
        except StitchworkError as error:
            headers = told | _challenge(error, presented, scopes)
            await send_error(error, scope, receive, send, headers)
            return
        await self._app(scope, receive, _with(told, send) if told else send)

    async def _find(self, presented: str) -> ApiKey | None:
        """The key that this is; one that was added just now is looked for."""
        if not presented:
            return None
        found = self._ring.find(presented)
        if found is None and await self._looked():
            found = self._ring.find(presented)
        return found

    async def _looked(self) -> bool:
        """Look at the keys again; False within the pause after the last time.

        Whoever comes meanwhile waits for the same look.
        """
        if self._look is None:
            if time.monotonic() < self._may_look:
                return False
            self._look = asyncio.ensure_future(asyncio.to_thread(self._ring.refresh))
            self._look.add_done_callback(self._pause)
        # Shielded: others wait for it when this caller has left.
        await asyncio.shield(self._look)
        return True

    def _pause(self, _: object) -> None:
        self._look, self._may_look = None, time.monotonic() + LOOK_PAUSE

    def _admit(
        self, key: ApiKey | None, presented: str, scopes: tuple[KeyScope, ...]
    ) -> ApiKey | None:
        """The key that lets this request in; None if none is needed.

        Raises:
            AuthenticationError: If there is no key, or none that is known.
            InsufficientScopeError: If it does not open this.
            RegistryUnavailableError: If it is not known which keys there are.
        """
        if key is None:
            if self._ring.open:
                return None
            if presented:
                raise AuthenticationError("the key is unknown, removed or expired")
            raise AuthenticationError(
                "expected a key, as `Authorization: Bearer KEY`, got none or another kind"
            )
        if not key.opens(scopes):
            raise _wrong(key, scopes)
        return key

    async def _count(self, key: ApiKey | None, scope: KeyScope, told: dict[str, str]) -> None:
        """Count a request; adds what its answer is to say of what is left.

        Raises:
            RateLimitError: If nothing was left.
        """
        standing = await asyncio.to_thread(self._rates.hit, key, scope)
        if standing is None:
            return
        told |= standing.headers
        if not standing.allowed:
            who = f"key {key.name}" if key else "whoever has no key"
            said = "its own limit" if key and key.limit else "rate_limits"
            spent = RateLimitError(
                f"{who} may ask {standing.limit} times in {standing.window} seconds ({said})"
            )
            spent.retry_after = max(1.0, standing.reset)
            raise spent


def _with(headers: dict[str, str], send: Send) -> Send:
    """Send the same, with more headers."""
    added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return sending


def check_keys(ring: ApiKeyCache, host: str) -> None:
    """Look at the keys before the service listens, and say loudly if nothing guards it.

    Args:
        ring: The keys.
        host: The address that is to be listened on.

    Raises:
        AuthenticationError: If a key is needed on this address and none is set.
    """
    try:
        ring.look()
        empty = ring.empty
    except RegistryUnavailableError as error:
        log.warning(
            "API keys unavailable",
            extra={"reason": error.message, "effect": "only keys of key_file are accepted"},
        )
        return
    if empty and ring.must:
        raise AuthenticationError(
            f"host {host} can be reached by others and no key guards it; set one while the service "
            "is on loopback (`stitchwork api-keys add`) or by key_file (STITCHWORK_KEY_FILE), or "
            "allow it by allow_public (STITCHWORK_ALLOW_PUBLIC=true)"
        )
    if empty:
        log.warning(
            "authentication disabled: no API key exists, so any client may read, change and delete "
            "everything; `stitchwork api-keys add NAME --scope admin` creates a key",
            extra={"host": host},
        )


def _presented(scope: Scope) -> str:
    """The key that a request carries; empty if it carries none."""
    told = [value for name, value in scope["headers"] if name == b"authorization"]
    kind, _, key = (told[0] if len(told) == 1 else b"").decode("latin-1").partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


def _wrong(key: ApiKey, scopes: Iterable[KeyScope]) -> InsufficientScopeError:
    needs = " or ".join(scopes)
    return InsufficientScopeError(
        f"this needs a key of scope {needs}, {key.name} has {', '.join(key.scopes)}"
    )


def _challenge(
    error: StitchworkError, presented: str, scopes: tuple[KeyScope, ...]
) -> dict[str, str]:
    """What RFC 6750 says to a client whose key is missing, wrong or too weak."""
    if isinstance(error, AuthenticationError):
        fault = ', error="invalid_token"' if presented else ""
        return {"WWW-Authenticate": f'Bearer realm="stitchwork"{fault}'}
    if isinstance(error, InsufficientScopeError):
        told = f'error="insufficient_scope", scope="{" ".join(scopes)}"'
        return {"WWW-Authenticate": f'Bearer realm="stitchwork", {told}'}
    return {}
