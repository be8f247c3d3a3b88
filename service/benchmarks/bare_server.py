"""A minimal server as the baseline of `/translate`.

`python -m benchmarks.bare_server WIDTH` prints its port, then `ready`, and serves until it is
killed:

- `POST /product`: a header of any length, then float32 rows; the response has the same header and
  the rows times a matrix; uvicorn alone.
- `POST /lists`: the same with lists of numbers and a pydantic model, as FastAPI does by default.
- `GET /constant`: a FastAPI route that returns a constant.
"""

import socket
import sys
from typing import Any, Final

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from stitchwork.settings import Settings

SEED: Final = 0


class EmbeddingsBody(BaseModel):
    """Request and response body of `/lists`."""

    embeddings: list[list[float]]


class BareServer:
    """The ASGI application.

    Args:
        width: Width of the rows of requests and responses.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._matrix = np.random.default_rng(SEED).normal(size=(width, width)).astype(np.float32)
        self._app = FastAPI()
        self._app.post("/lists")(self.lists)
        self._app.get("/constant")(self.constant)

    def lists(self, body: EmbeddingsBody) -> EmbeddingsBody:
        """The product, from and to lists."""
        product = np.asarray(body.embeddings, np.float32) @ self._matrix
        return EmbeddingsBody(embeddings=product.tolist())

    async def constant(self) -> dict[str, str]:
        """A constant."""
        return {"status": "ok"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["path"] == "/product":
            await self._product(receive, send)
        else:
            await self._app(scope, receive, send)

    async def _product(self, receive: Receive, send: Send) -> None:
        parts, has_more = [], True
        while has_more:
            message = await receive()
            parts.append(message["body"])
            has_more = message.get("more_body", False)
        body = b"".join(parts)
        header_bytes = len(body) % (4 * self._width)
        rows = np.frombuffer(body, np.float32, offset=header_bytes).reshape(-1, self._width)
        product: Any = rows @ self._matrix
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body[:header_bytes], "more_body": True})
        await send({"type": "http.response.body", "body": memoryview(product).cast("B")})


def main(width: int) -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201
    config: dict[str, Any] = {
        "log_config": None,
        "access_log": False,
        "timeout_keep_alive": Settings().keep_alive_seconds,
    }
    print("ready", flush=True)  # noqa: T201
    # Run as the service runs it, so that both have the same event loop.
    uvicorn.Server(uvicorn.Config(BareServer(width), **config)).run([listener])


if __name__ == "__main__":
    main(int(sys.argv[1]))
