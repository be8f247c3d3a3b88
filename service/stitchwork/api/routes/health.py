"""Liveness, readiness, workers, and what this service is."""

import asyncio
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from stitchwork import background
from stitchwork.api import access
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import AppState, StateDep
from stitchwork.api.schemas.responses import (
    EncoderQueue,
    InfoResponse,
    LiveResponse,
    ReadyResponse,
    WorkerResponse,
    WorkersResponse,
)
from stitchwork.errors import InvalidInputError, RegistryUnavailableError
from stitchwork.geometry.bridges import BRIDGES, DEFAULT_BRIDGE
from stitchwork.queue.shards import read_shards
from stitchwork.queue.streams import merge_backlogs, stream_backlogs
from stitchwork.queue.worker_registry import WorkerStatus

router = APIRouter(tags=["operation"])

MinWorkers = Annotated[
    int,
    Query(
        alias="workers",
        ge=0,
        description="Minimum number of live workers; with fewer the response is 503 as well. If "
        "keys are required, a request without one may name 1 at most.",
    ),
]


Models = Annotated[
    str,
    Query(description="Patterns of the models whose queues are listed, separated by commas."),
]


@router.get("/health/live", summary="Liveness", response_model=LiveResponse)
async def live() -> Response:
    """200 as long as the event loop of the process runs."""
    return negotiation.json_response(LiveResponse(live=True))


@router.get(
    "/health",
    summary="Readiness, at the path that many tools expect",
    response_model=ReadyResponse,
    responses={503: {"description": "The process is not ready", "model": ReadyResponse}},
)
@router.get(
    "/health/ready",
    summary="Readiness",
    response_model=ReadyResponse,
    responses={503: {"description": "The process is not ready", "model": ReadyResponse}},
)
async def ready(request: Request, state: StateDep, min_workers: MinWorkers = 0) -> Response:
    """200 if this process can serve requests that need nothing else, such as known translations.

    It is 503 while the process is about to end, and while one of its tasks or all of its threads
    make no progress. To callers with a valid key, or to all if no key is required, the response
    also has the state of the servers and the workers a moment ago. These do not make it 503: they
    concern every process, and removing this one from a load balancer would not help.
    """
    may_know = _may_know(state, access.request_key(request.scope))
    if min_workers > 1 and not may_know:
        # Otherwise a few requests would tell anybody how many there are.
        raise InvalidInputError(
            f"workers: expected at most 1 without a valid key, got {min_workers}",
            pointer="/workers",
        )
    response = readiness(state, min_workers)
    headers = {} if response.ready else {"Retry-After": "2"}
    if not may_know:
        response = ReadyResponse(ready=response.ready)
    return negotiation.json_response(response, 200 if response.ready else 503, headers)


@router.get("/workers", summary="Workers and queues", response_model=WorkersResponse)
async def workers(state: StateDep, models: Models = "*") -> Response:
    """The live workers, the queue of each encoder, and how long its first job has waited.

    Scale workers by `oldest_seconds`. `models` selects the queues of a pool of workers that has
    its own `worker_models`.
    """
    patterns = [pattern.strip() for pattern in models.split(",")]
    return negotiation.json_response(await asyncio.to_thread(_workers, state, patterns))


@router.get("/info", summary="Version, bridges, formats and limits", response_model=InfoResponse)
async def info(state: StateDep) -> Response:
    """Version, bridges, media types, limits, and what a 201 of a registration guarantees."""
    media_types = [
        negotiation.JSON,
        *negotiation.BINARY,
        negotiation.MULTIPART,
        negotiation.NDJSON,
    ]
    report = await asyncio.to_thread(state.server_reporter.report)
    return negotiation.json_response(
        InfoResponse(
            name="stitchwork",
            version=state.version,
            bridges=list(BRIDGES),
            default_bridge=DEFAULT_BRIDGE,
            media_types=media_types,
            limits=dict(state.service_limits),
            durability=report.durability,
            warnings=report.warnings,
        )
    )


def _may_know(state: AppState, token: str) -> bool:
    """Whether a caller may know more than yes or no: with any valid key, or if none is required."""
    try:
        return state.api_keys.is_public or state.api_keys.find(token) is not None
    except RegistryUnavailableError:
        return False


def readiness(state: AppState, min_workers: int = 0) -> ReadyResponse:
    """Whether this process is ready, and what it knows of the servers and the workers."""
    draining = state.draining.is_set()
    stalled = background.stalled(state.background_tasks)
    if state.executor.is_stalled:
        stalled.append(state.executor.name)
    producer = state.producer
    live_workers, unavailable = producer.connected_workers, producer.unavailable_shards
    return ReadyResponse(
        ready=not draining and not stalled and len(live_workers) >= min_workers,
        registry=state.registry.lease_keeper.is_connected,
        queue=not unavailable,
        unavailable_shards=unavailable if len(producer.shards) > 1 else [],
        workers=len(live_workers),
        draining=draining,
        stalled=stalled,
        refused={
            space: reason for worker in live_workers for space, reason in worker.refused.items()
        },
    )


def _models(state: AppState, workers: Sequence[WorkerStatus]) -> dict[str, str]:
    """The models that workers have loaded; none while the registry is unavailable."""
    try:
        return state.encoder_names.find(key for worker in workers for key in worker.loaded)
    except RegistryUnavailableError:
        return {}


def _workers(state: AppState, patterns: Sequence[str]) -> WorkersResponse:
    live_workers = state.producer.workers()
    models = _models(state, live_workers)
    backlogs, unavailable = read_shards(state.producer.shards, stream_backlogs)
    queues = [
        EncoderQueue(
            encoder=encoder,
            model=backlog.model,
            dtype=backlog.dtype,
            waiting=backlog.jobs - backlog.running,
            running=backlog.running,
            oldest_seconds=(backlog.waited_ms or 0) / 1000,
            workers=sum(worker.takes(backlog.requirement) for worker in live_workers),
        )
        for encoder, backlog in merge_backlogs(backlogs).items()
        # Every worker takes jobs without a model.
        if not backlog.model or any(fnmatchcase(backlog.model, pattern) for pattern in patterns)
    ]
    return WorkersResponse(
        workers=[
            WorkerResponse(**dict(worker), loaded_models=[models.get(key) for key in worker.loaded])
            for worker in live_workers
        ],
        queues=queues,
        waiting=sum(queue.waiting for queue in queues),
        oldest_seconds=max((queue.oldest_seconds for queue in queues), default=0.0),
        unavailable_shards=unavailable,
    )
