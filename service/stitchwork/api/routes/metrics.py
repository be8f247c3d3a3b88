"""The figures, for Prometheus."""

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from stitchwork.api.dependencies import StateDep

router = APIRouter(tags=["operation"])

TEXT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Successful Response", "content": {"text/plain": {}}}
}


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses=TEXT)
async def metrics(request: Request, state: StateDep) -> Response:
    """Figures of this process and of the queue, as Prometheus or OpenMetrics text.

    The processes of one `serve` answer on one address, and each of them with the figures of all.
    """
    encode, media_type = choose_encoder(request.headers.get("accept", ""))

    def shown() -> bytes:
        return encode(state.telemetry.metrics.combined_registry(state.server_metrics))

    text = await asyncio.to_thread(shown)
    return Response(text, headers={"Content-Type": media_type})
