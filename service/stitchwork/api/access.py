"""Access: the scopes that methods and paths require, as one table.

It covers every method and path, whichever router serves them. Its last rule covers all the rest, so
that a route that no other rule covers requires `admin`.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

from starlette.types import Scope

from stitchwork.api.message_state import request_headers
from stitchwork.resources import Scope as KeyScope

READ: Final = KeyScope.READ
INFER: Final = KeyScope.INFER
EXPORT: Final = KeyScope.EXPORT
ADMIN: Final = KeyScope.ADMIN
PUBLIC: Final[tuple[KeyScope, ...]] = ()
"""No key is required."""
KEY_HEADERS: Final = (b"authorization", b"x-api-key")
_KEY_DESCRIPTION: Final = (
    "A key of `stitchwork api-keys add`, if any is set. Scopes: `read` reads what "
    "is registered, `infer` uses it, `export` takes translations and heads away as files, reports "
    "moves and finds the nearest anchors, `admin` does everything."
)
SCHEMES: Final = {
    "key": {"type": "http", "scheme": "bearer", "description": _KEY_DESCRIPTION},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same keys, for clients that do not send `Authorization`.",
    },
}
"""The headers by which a request presents its key, for the OpenAPI document."""


class Rule(NamedTuple):
    """The scopes that requests of some methods and paths require; any one of them is enough.

    `methods` is None for all methods.
    """

    methods: frozenset[str] | None
    path: re.Pattern[str]
    scopes: tuple[KeyScope, ...]


def _rule(methods: str, path: str, *scopes: KeyScope) -> Rule:
    return Rule(frozenset(methods.split()) or None, re.compile(path, re.DOTALL), scopes)


RULES: Final = (
    _rule("GET", r"/health|(/v2)?/health/(live|ready)", *PUBLIC),
    # The same for every installation of this release; nothing here tells what is registered.
    _rule("GET", r"/|/assets/[^/]+|/guide(/.*)?", *PUBLIC),
    _rule("GET", r"/docs(/assets/[^/]+)?|/redoc|/openapi\.json", *PUBLIC),
    # Clients read these before they infer.
    _rule("GET", r"/info|/v1/models(/.*)?|/v2(/.*)?|/tei/.+/(info|health)", READ, INFER),
    _rule("POST", r"/translate|/(classify|embed)/[^/]+|/(stitch|compatibility)/[^/]+/[^/]+", INFER),
    _rule("POST", r"/v1/(embeddings|rerank)|/v2/(rerank|models/.+/infer)|/tei/.+", INFER),
    _rule("POST", r"/v2/repository/index", READ, INFER),
    _rule("POST", r"/inference\.GRPCInferenceService/Server(Live|Ready)", *PUBLIC),
    _rule("POST", r"/inference\.GRPCInferenceService/Model(Stream)?Infer", INFER),
    _rule("POST", r"/inference\.GRPCInferenceService/[^/]+", READ, INFER),
    _rule("POST", r"/grpc\.health\.v1\.Health/Check", *PUBLIC),
    _rule("POST", r"/grpc\.reflection\.v1(alpha)?\.ServerReflection/[^/]+", READ, INFER),
    # The file holds landmarks, which are anchors, and the head's weights.
    _rule("GET", r"/spaces/[^/]+/translations/[^/]+", EXPORT),
    # Cosines of probes to the anchors give the anchors.
    _rule("POST", r"/spaces/[^/]+/anchors/nearest", EXPORT),
    # Moves are reported with the key that they take the map with.
    _rule("PUT", r"/moves/[^/]+(/assessment)?", EXPORT),
    _rule("GET", r"/moves/[^/]+", READ, EXPORT),
    _rule("POST", r"/anchors/choose", READ),
    _rule("GET", r".*", READ),
    _rule("", r".*", ADMIN),
)


@lru_cache(4096)
def required_scopes(
    method: str, path: str, *, metrics_public: bool = False
) -> tuple[KeyScope, ...]:
    """The scopes of which a request needs one; empty if it needs no key."""
    if metrics_public and path == "/metrics":
        return PUBLIC
    method = "GET" if method == "HEAD" else method
    return next(
        rule.scopes
        for rule in RULES
        if (rule.methods is None or method in rule.methods) and rule.path.fullmatch(path)
    )


def request_key(scope: Scope) -> str:
    """The API key that a request presents; empty if there is none, or several that differ."""
    headers = request_headers(scope)
    if len(headers) < len(scope["headers"]):
        names = [name for name, _ in scope["headers"]]
        if any(names.count(name) > 1 for name in KEY_HEADERS):
            # Which of them counts would be a guess.
            return ""
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else ""
    key = headers.get(b"x-api-key", b"").decode("latin-1").strip()
    return "" if token and key and token != key else token or key
