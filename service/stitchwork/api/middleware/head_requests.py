"""HEAD requests: what GET responds, without the body."""

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadRequestMiddleware:
    """Handles HEAD as GET; the server omits the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy, because the server still needs the original method to omit the body.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
