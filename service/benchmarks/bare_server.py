"""What a service costs that does nothing but its work: partners of what `/translate` takes.

`python -m benchmarks.bare_server WIDTH` prints its port, then `ready`, and answers until it
is killed:

- `POST /product`: the rows that end the body, times a matrix, after the bytes that came before
  them; uvicorn alone.
- `POST /lists`: the same as lists of numbers through a pydantic model, as FastAPI does by default.
- `GET /constant`: FastAPI with nothing to do.
"""

import socket
import sys
from typing import Any, Final

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from stitchwork.api.server import KEEP_ALIVE_SECONDS

SEED: Final = 0


class Rows(BaseModel):
    """What comes in and goes out."""

    embeddings: list[list[float]]


class Bare:
    """The app.

    Args:
        width: Of the rows, before and after.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._matrix = np.random.default_rng(SEED).normal(size=(width, width)).astype(np.float32)
        self._app = FastAPI()
        self._app.post("/lists")(self.lists)
        self._app.get("/constant")(self.constant)

    def lists(self, asked: Rows) -> Rows:
        """The product of lists."""
        product = np.asarray(asked.embeddings, np.float32) @ self._matrix
        return Rows(embeddings=product.tolist())

    async def constant(self) -> dict[str, str]:
        """Always the same."""
        return {"status": "ok"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["path"] == "/product":
            await self._product(receive, send)
        else:
            await self._app(scope, receive, send)

    async def _product(self, receive: Receive, send: Send) -> None:
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message["body"])
            more = message.get("more_body", False)
        body = b"".join(parts)
        head = len(body) % (4 * self._width)
        rows = np.frombuffer(body, np.float32, offset=head).reshape(-1, self._width)
        product: Any = rows @ self._matrix
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body[:head], "more_body": True})
        await send({"type": "http.response.body", "body": memoryview(product).cast("B")})


def main(width: int) -> None:
    """Serve."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201
    config: dict[str, Any] = {
        "log_config": None,
        "access_log": False,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
    }
    print("ready", flush=True)  # noqa: T201
    # As the service runs it, so that both have the same event loop.
    uvicorn.Server(uvicorn.Config(Bare(width), **config)).run([listener])


if __name__ == "__main__":
    main(int(sys.argv[1]))
