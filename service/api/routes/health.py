"""Is it alive, is it ready, and what is it."""

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from service.api import wire
from service.api.depends import Parts, PartsDep
from service.errors import Unavailable
from service.geometry.bridges import BRIDGES

router = APIRouter(tags=["operation"])


@router.get("/health/live", summary="Is this process alive?")
async def live() -> Response:
    """200 as long as the process answers at all."""
    return wire.answer({"live": True})


@router.get("/health/ready", summary="Can requests be served?")
async def ready(parts: PartsDep) -> Response:
    """200 if both servers answer and a worker is alive; otherwise 503 that says what is missing."""
    found = await asyncio.to_thread(_checks, parts)
    status = 200 if found["registry"] and found["queue"] and found["workers"] else 503
    headers = {} if status == 200 else {"Retry-After": "2"}
    return wire.answer({"ready": status == 200, **found}, status, headers)


@router.get("/info", summary="What this service is and takes")
async def info(parts: PartsDep) -> Response:
    """Version, bridges, limits, formats, and what a 201 promises."""
    return wire.answer(
        {
            "name": "stitchwork",
            "version": parts.version,
            "bridges": list(BRIDGES),
            "default_bridge": "ridge",
            "media_types": [wire.JSON, *wire.BINARY, wire.MULTIPART, wire.NDJSON],
            "limits": {name: getattr(parts.limits, name) for name in parts.limits.__slots__},
            "durability": await asyncio.to_thread(_promise, parts),
        }
    )


def _checks(parts: Parts) -> dict[str, bool | int]:
    try:
        registry = parts.registry.server.ping()
    except Unavailable:
        registry = False
    try:
        workers = parts.dispatcher.workers()
    except Unavailable:
        return {"registry": registry, "queue": False, "workers": 0}
    return {"registry": registry, "queue": True, "workers": workers}


def _promise(parts: Parts) -> str:
    if not parts.registry.durable:
        return "none: registrations are acknowledged before they are on disk"
    copies = parts.registry.server.replicas
    also = f", and those of {copies} of its replicas" if copies else ""
    return f"aof: a registration is acknowledged once the registry's append-only file has it{also}"
