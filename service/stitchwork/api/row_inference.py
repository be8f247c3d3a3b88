"""Where the arithmetic on embeddings of a request runs: on the event loop if it is short.

To hand work to a thread and back costs more than a row's products. A few milliseconds would hold up
all other requests, so longer work goes to the executor; if there is no other request, only work
goes there that would hold up the next one.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from stitchwork.api.dependencies import AppState
from stitchwork.api.direct_routes import reserve
from stitchwork.api.request_lifetime import run_while_connected
from stitchwork.geometry.bridges import BridgeName
from stitchwork.inference.resolve import Resolution
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Floats

FLOAT32_BYTES: Final = 4
MAX_PRODUCTS: Final = 4_000_000
"""Multiplications on the event loop while other requests are in progress: a fraction of a
millisecond."""
MAX_PRODUCTS_ALONE: Final = 48_000_000
"""Multiplications on the event loop while there is no other request: about a millisecond."""


class RowsRequest(NamedTuple):
    """The embeddings of a request, and what it refers to.

    Attributes:
        rows: (n, d) float32 embeddings.
        bridge: The bridge.
        source: Id of their space; None takes the head's.
        target: Id of the space to translate into; None takes the head's.
        head: Id of the head to classify with; None to not classify.
    """

    rows: Floats
    bridge: BridgeName
    source: str | None = None
    target: str | None = None
    head: str | None = None

    @property
    def ids(self) -> dict[str, Any]:
        """Arguments of `Pipeline.resolve`."""
        return {
            "source": self.source,
            "target": self.target,
            "head": self.head,
            "bridge": self.bridge,
        }


async def infer_rows(
    request: Request,
    state: AppState,
    content: RowsRequest,
    check: Callable[[Resolution], object],
    respond: Callable[[InferenceResult], Response],
    seconds: float,
) -> Response:
    """Translate or classify the embeddings of a request.

    Args:
        request: The request.
        state: The state of the API.
        content: Its embeddings, and what it refers to.
        check: Checks the request for given versions, before anything is computed.
        respond: Makes the response of a result.
        seconds: Deadline of the response, in seconds from now.

    Raises:
        QueueFullError: If it takes a thread, and too many tasks run or wait; or if there is no room
            for its result.
        DeadlineExceededError: If it takes a thread, and longer.
        ClientDisconnectedError: If it takes a thread, and the client disconnects first.
        StitchworkError: What `check` and the inference raise.
    """
    pipeline, executor, rows = state.pipeline, state.executor, content.rows
    known = pipeline.resolve_in_memory(**content.ids)
    if known is None:
        known = await executor.run(partial(pipeline.resolve, **content.ids), seconds)
    check(known)
    products = pipeline.count_products(known)
    limit = MAX_PRODUCTS_ALONE if state.load.requests == 1 else MAX_PRODUCTS
    if products is not None and products * len(rows) <= limit:
        return respond(pipeline.infer_rows(known, rows))
    reserve(request, rows.nbytes + FLOAT32_BYTES * len(rows) * result_width(known))
    abandoned = threading.Event()

    def compute() -> Response:
        return respond(pipeline.infer_rows(known, rows, abandoned.is_set))

    return await run_while_connected(request, executor.run(compute, seconds, abandoned.set))


def result_width(resolution: Resolution) -> int:
    """The number of columns of a result: labels of the head, or the width of the target."""
    head = resolution.head
    return len(head.labels) if head else resolution.destination.dim
