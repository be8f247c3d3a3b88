"""Embed and stitch raw inputs: one hop to a worker that holds the encoder."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api import openapi, wire
from service.api.answers import Embedded, Stitched
from service.api.depends import PartsDep, PathId, SecondsDep, while_connected
from service.api.openapi import body
from service.api.predictions import predictions
from service.api.routes.answers import named, outside, undefined, used
from service.api.routes.queued import check_room, job_of, run
from service.api.schemas import EmbedBody, StitchBody
from service.records import check_id

router = APIRouter(tags=["inference"])


@router.post(
    "/embed/{encoder}",
    summary="Embed raw inputs",
    responses=openapi.rows(Embedded),
    openapi_extra=body(EmbedBody),
)
async def embed(
    encoder: PathId, request: Request, parts: PartsDep, seconds: SecondsDep
) -> Response:
    """Raw inputs as embeddings of a space that has an encoder or, with `target`, of another."""
    check_room(parts, encoder)
    asked = await wire.read(request, EmbedBody, parts.limits)
    names = [check_id(encoder), *([asked.target] if asked.target else [])]
    spaces, stale = await asyncio.to_thread(parts.registry.spaces.ready, *names)
    source, target = spaces[0], spaces[1] if asked.target else None
    job = job_of(source, target, bridge=asked.bridge, truncate=asked.truncate)
    reply = await while_connected(request, run(parts, job, asked.items, seconds))
    parts.telemetry.metrics.inferred("embed", reply.covered)
    facts: dict[str, Any] = {"encoder": named(source), "truncated": list(reply.truncated)}
    roles, headers = {"source": source}, {}
    if target:
        beyond = outside(reply.covered, source)
        facts |= {
            "target": named(target),
            "bridge": asked.bridge,
            "undefined": undefined(reply.defined),
            **beyond.facts,
        }
        roles["target"], headers = target, beyond.headers
    return wire.respond(
        request,
        "embeddings",
        reply.rows,  # type: ignore[arg-type]
        facts,
        as_base64=asked.encoding_format == "base64",
        headers=used(stale, **roles) | headers,
    )


@router.post(
    "/stitch/{encoder}/{head}",
    summary="Classify raw inputs",
    response_model=Stitched,
    openapi_extra=body(StitchBody),
)
async def stitch(
    encoder: PathId,
    head: PathId,
    request: Request,
    parts: PartsDep,
    seconds: SecondsDep,
) -> Response:
    """Raw inputs, embedded by one model and classified by a head that was made for another."""
    check_room(parts, encoder)
    asked = await wire.read(request, StitchBody, parts.limits)
    (used_head,), head_stale = await asyncio.to_thread(parts.registry.heads.ready, check_id(head))
    (source, target), stale = await asyncio.to_thread(
        parts.registry.spaces.ready, check_id(encoder), used_head.space
    )
    job = job_of(source, target, used_head, bridge=asked.bridge, truncate=asked.truncate)
    calibration = await asyncio.to_thread(
        parts.registry.calibrations.get, source, target, used_head, asked.bridge
    )
    reply = await while_connected(request, run(parts, job, asked.items, seconds))
    beyond = outside(reply.covered, source)
    found = predictions(
        reply.rows,  # type: ignore[arg-type]
        reply.defined,
        used_head.labels,
        asked.top,
        calibration,
    )
    parts.telemetry.metrics.inferred("stitch", reply.covered)
    parts.telemetry.metrics.judged(used_head.id, [told["confidence"] for told in found])
    answer = {
        "predictions": found,
        "encoder": named(source),
        "head": named(used_head),
        "bridge": asked.bridge,
        "truncated": list(reply.truncated),
        **beyond.facts,
    }
    headers = used(stale or head_stale, source=source, target=target, head=used_head)
    return wire.answer(answer, headers=headers | beyond.headers)
