"""Where the arithmetic on embeddings of a request runs: on the event loop if it is short.

To hand work to a thread and back costs more than a row's products. A few milliseconds would hold up
all other requests, so longer work goes to the executor; if there is no other request, only work
goes there that would hold up the next one.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from starlette.responses import Response

from stitchwork.api.content.negotiation import Body
from stitchwork.api.dependencies import AppState
from stitchwork.geometry.bridges import BridgeName
from stitchwork.inference.resolve import Resolution

MAX_PRODUCTS: Final = 4_000_000
"""Multiplications on the event loop while other requests are in progress: a fraction of a
millisecond."""
MAX_PRODUCTS_ALONE: Final = 48_000_000
"""Multiplications on the event loop while there is no other request: about a millisecond."""

B = TypeVar("B")


class RowsRequest(NamedTuple):
    """What a payload with embeddings refers to.

    Attributes:
        rows: The number of embeddings.
        bridge: The bridge.
        source: Id of their space; None takes the head's.
        target: Id of the space to translate into; None takes the head's.
        head: Id of the head to classify with; None to not classify.
    """

    rows: int
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
    state: AppState,
    body: Body[B],
    parse: Callable[[B], RowsRequest],
    respond: Callable[[B, Resolution], Response],
    seconds: float,
) -> Response:
    """Translate or classify the embeddings of a request.

    Args:
        state: The state of the API.
        body: The body of the request.
        parse: Returns what a payload refers to.
        respond: Computes the response to a payload with given versions.
        seconds: Deadline of the response, in seconds from now.

    Raises:
        QueueFullError: If it takes a thread, and too many tasks run or wait.
        DeadlineExceededError: If it takes a thread, and longer.
        StitchworkError: What `body.read` and the inference raise.
    """
    pipeline, executor = state.pipeline, state.executor

    def read_and_respond() -> Response:
        payload = body.read()
        return respond(payload, pipeline.resolve(**parse(payload).ids))

    if not body.is_short:
        return await executor.run(read_and_respond, seconds)
    payload = body.read()
    parsed = parse(payload)
    known = pipeline.resolve_in_memory(**parsed.ids)
    if known is None:
        return await executor.run(lambda: respond(payload, pipeline.resolve(**parsed.ids)), seconds)
    products = pipeline.count_products(known)
    limit = MAX_PRODUCTS_ALONE if state.load.requests == 1 else MAX_PRODUCTS
    if products is not None and products * parsed.rows <= limit:
        return respond(payload, known)
    return await executor.run(lambda: respond(payload, known), seconds)
