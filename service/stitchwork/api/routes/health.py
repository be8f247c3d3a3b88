"""Is it alive, is it ready, and what is it."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import AppState, StateDep
from stitchwork.api.schemas.responses import (
    InfoResponse,
    LiveResponse,
    ReadyResponse,
    WorkersResponse,
)
from stitchwork.errors import UnavailableError
from stitchwork.geometry.bridges import BRIDGES, DEFAULT_BRIDGE
from stitchwork.queue.streams import stream_backlogs

router = APIRouter(tags=["operation"])


@router.get("/health/live", summary="Is this process alive?", response_model=LiveResponse)
async def live() -> Response:
    """200 as long as the process answers at all."""
    return negotiation.json_response({"live": True})


@router.get(
    "/health/ready",
    summary="Can requests be served?",
    response_model=ReadyResponse,
    responses={503: {"description": "Something is missing", "model": ReadyResponse}},
)
async def ready(state: StateDep) -> Response:
    """200 if both servers answer and a worker is alive; otherwise 503 that says what is missing.

    Spaces whose encoders are refused and the state of the queues stand beside it: they concern
    the service as a whole, and taking this process out of a balancer would not help.
    """
    found = await asyncio.to_thread(_checks, state)
    up = found["registry"] and found["queue"] and found["workers"] and not state.draining.is_set()
    headers = {} if up else {"Retry-After": "2"}
    return negotiation.json_response({"ready": bool(up), **found}, 200 if up else 503, headers)


@router.get("/workers", summary="What the workers do", response_model=WorkersResponse)
async def workers(state: StateDep) -> Response:
    """The live workers, the queue of each encoder, and how long its first job has waited.

    `oldest_seconds` is what to scale workers by.
    """
    return negotiation.json_response(await asyncio.to_thread(_fleet, state))


@router.get("/info", summary="What this service is and takes", response_model=InfoResponse)
async def info(state: StateDep) -> Response:
    """Version, bridges, limits, formats, and what a 201 promises."""
    return negotiation.json_response(
        {
            "name": "stitchwork",
            "version": state.version,
            "bridges": list(BRIDGES),
            "default_bridge": DEFAULT_BRIDGE,
            "media_types": [
                negotiation.JSON,
                *negotiation.BINARY,
                negotiation.MULTIPART,
                negotiation.NDJSON,
            ],
            "limits": state.service_limits,
            "durability": await asyncio.to_thread(_promise, state),
        }
    )


def _checks(state: AppState) -> dict[str, Any]:
    draining = {"draining": state.draining.is_set()}
    try:
        registry = state.registry.server.ping()
    except UnavailableError:
        registry = False
    try:
        found = state.producer.workers()
    except UnavailableError:
        return {"registry": registry, "queue": False, "workers": 0, **draining}
    refused = {space: reason for worker in found for space, reason in worker.refused.items()}
    told = {"registry": registry, "queue": True, "workers": len(found), **draining}
    return {**told, "refused": refused}


def _fleet(state: AppState) -> dict[str, Any]:
    found = state.producer.workers()
    waiting = stream_backlogs(state.producer.server)
    queues: list[dict[str, Any]] = [
        {
            "encoder": encoder,
            "model": backlog.model,
            "waiting": backlog.held - backlog.running,
            "running": backlog.running,
            "oldest_seconds": (backlog.waited_ms or 0) / 1000,
            "workers": sum(worker.takes(backlog.model) for worker in found),
        }
        for encoder, backlog in waiting.items()
    ]
    return {
        "workers": [worker.model_dump(mode="json") for worker in found],
        "queues": queues,
        "waiting": sum(queue["waiting"] for queue in queues),
        "oldest_seconds": max((queue["oldest_seconds"] for queue in queues), default=0.0),
    }


def _promise(state: AppState) -> str:
    if not state.registry.durable:
        return "none: registrations are acknowledged before they are on disk"
    copies = state.registry.server.replicas
    also = f", and those of {copies} of its replicas" if copies else ""
    return f"aof: a registration is acknowledged once the registry's append-only file has it{also}"
