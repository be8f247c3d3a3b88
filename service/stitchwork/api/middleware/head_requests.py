"""HEAD: what GET would answer, without the body."""

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadRequestMiddleware:
    """Answers HEAD wherever there is GET; the server itself leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy: by its own the server knows that this is a HEAD.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
