"""Metrics for Prometheus."""

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from stitchwork.api.dependencies import StateDep

router = APIRouter(tags=["operation"])

RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Metrics as text", "content": {"text/plain": {}}}
}


@router.get("/metrics", summary="Metrics", response_class=Response, responses=RESPONSES)
async def metrics(request: Request, state: StateDep) -> Response:
    """Metrics of all processes of this service and of the queue, in Prometheus or OpenMetrics text.

    The API processes of one `serve` share an address, and each returns the metrics of all.
    """
    encode, media_type = choose_encoder(request.headers.get("accept", ""))

    def render() -> bytes:
        return encode(state.telemetry.metrics.combined_registry(state.server_metrics))

    text = await asyncio.to_thread(render)
    return Response(text, headers={"Content-Type": media_type})
