"""Routes of the Open Inference Protocol (KServe's version 2)."""

import asyncio
from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.content.body_content import parse_body
from stitchwork.api.content.negotiation import JSON
from stitchwork.api.dependencies import AppState, StateDep, app_state
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.kserve import models, repository, tensors
from stitchwork.api.kserve.inference import check_before_body
from stitchwork.api.kserve.inference import infer as infer_tensors
from stitchwork.api.kserve.models import find_model, parse_name
from stitchwork.api.kserve.output_tensors import tensor_response
from stitchwork.api.kserve.readiness import check_ready
from stitchwork.api.kserve.schemas import (
    InferenceRequest,
    InferenceResponse,
    ModelConfiguration,
    ModelMetadata,
    ModelReadyResponse,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryModel,
    ServerMetadata,
)
from stitchwork.api.openapi import body, with_octets, with_timeout
from stitchwork.api.provenance import resolution_headers
from stitchwork.api.routes import health
from stitchwork.api.schemas.responses import ReadyResponse

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

ModelPath = Annotated[
    str, Path(description=", ".join(f"`{form}`" for form in models.FORMS.values()))
]
VersionPath = Annotated[str, Path(description="The version in the model's metadata.")]
INFER_OPERATION: Final = with_timeout(body(InferenceRequest, octets=True))
INFER_RESPONSES: Final = with_octets(InferenceResponse)

router.add_api_route("/health/live", health.live, summary="Liveness", name="v2_live")
router.add_api_route(
    "/health/ready",
    health.ready,
    summary="Readiness",
    name="v2_ready",
    response_model=ReadyResponse,
    responses={503: {"description": "The process is not ready", "model": ReadyResponse}},
)


@router.get("", summary="Server metadata", name="v2_server", response_model=ServerMetadata)
async def server(state: StateDep) -> Response:
    """Name and version of the server, and the extensions of the protocol that it supports."""
    return negotiation.json_response(
        ServerMetadata(
            name=models.PLATFORM, version=state.version, extensions=list(models.EXTENSIONS)
        )
    )


@router.post(
    "/repository/index",
    summary="List models",
    name="v2_repository_index",
    response_model=list[RepositoryModel],
    openapi_extra=body(RepositoryIndexRequest, required=False),
)
async def repository_index(request: Request, state: StateDep) -> Response:
    """The models of all that is registered, at most 1,000, and whether they are ready."""
    payload = RepositoryIndexRequest()
    data = bytes(await state.body_parser.receive(request))
    if data.strip():
        payload = await state.body_parser.parse(
            request,
            parse_body,
            data,
            RepositoryIndexRequest,
            state.limits,
            text_bytes=len(data),
        )
    listed = await asyncio.to_thread(repository.list_models, state, ready=bool(payload.ready))
    return Response(orjson.dumps([model.model_dump() for model in listed]), 200, {}, JSON)


@router.get(
    "/models/stats",
    summary="Statistics of all models",
    name="v2_statistics",
    response_model=ModelStatisticsResponse,
)
async def all_statistics(state: StateDep) -> Response:
    """Requests of the models that the answering process has served since it started."""
    return await _statistics(state, "", None)


@router.get(
    "/models/{model}/stats",
    summary="Statistics of a model",
    name="v2_model_statistics",
    response_model=ModelStatisticsResponse,
)
async def model_statistics(model: ModelPath, state: StateDep) -> Response:
    """Requests of one model that the answering process has served since it started."""
    return await _statistics(state, model, None)


@router.get(
    "/models/{model}/versions/{version}/stats",
    summary="Statistics of one version",
    name="v2_model_version_statistics",
    response_model=ModelStatisticsResponse,
)
async def version_statistics(model: ModelPath, version: VersionPath, state: StateDep) -> Response:
    """The same, if this version is the current one."""
    return await _statistics(state, model, version)


@router.get(
    "/models/{model}/config",
    summary="Model configuration",
    name="v2_model_config",
    response_model=ModelConfiguration,
)
async def config(model: ModelPath, state: StateDep) -> Response:
    """Inputs and outputs of a model, as Triton's configuration has them."""
    return await _config(state, model, None)


@router.get(
    "/models/{model}/versions/{version}/config",
    summary="Configuration of one version",
    name="v2_model_version_config",
    response_model=ModelConfiguration,
)
async def version_config(model: ModelPath, version: VersionPath, state: StateDep) -> Response:
    """The same, if this version is the current one."""
    return await _config(state, model, version)


@router.get(
    "/models/{model}", summary="Model metadata", name="v2_model", response_model=ModelMetadata
)
async def metadata(model: ModelPath, state: StateDep) -> Response:
    """Inputs, outputs and version of a model."""
    return await _metadata(state, model, None)


@router.get(
    "/models/{model}/versions/{version}",
    summary="Model metadata of one version",
    name="v2_model_version",
    response_model=ModelMetadata,
)
async def version_metadata(model: ModelPath, version: VersionPath, state: StateDep) -> Response:
    """The same, if this version is the current one."""
    return await _metadata(state, model, version)


@router.get(
    "/models/{model}/ready",
    summary="Model readiness",
    name="v2_model_ready",
    response_model=ModelReadyResponse,
)
async def ready(model: ModelPath, state: StateDep) -> Response:
    """200 if its resources are ready and a live worker can serve it, perhaps after loading it."""
    return await _ready(state, model, None)


@router.get(
    "/models/{model}/versions/{version}/ready",
    summary="Readiness of one version",
    name="v2_model_version_ready",
    response_model=ModelReadyResponse,
)
async def version_ready(model: ModelPath, version: VersionPath, state: StateDep) -> Response:
    """The same, if this version is the current one."""
    return await _ready(state, model, version)


async def infer(model: ModelPath, request: Request) -> Response:
    """Embed, translate, classify or stitch, according to the model's name."""
    return await _infer(request, model, None)


async def version_infer(model: ModelPath, version: VersionPath, request: Request) -> Response:
    """The same, if this version is the current one."""
    return await _infer(request, model, version)


for path, name, summary, endpoint in (
    ("/models/{model}/infer", "v2_infer", "Inference", infer),
    (
        "/models/{model}/versions/{version}/infer",
        "v2_infer_version",
        "Inference with one version",
        version_infer,
    ),
):
    router.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        summary=summary,
        name=name,
        responses=INFER_RESPONSES,
        openapi_extra=INFER_OPERATION,
        route_class_override=DirectRoute,
    )


async def _metadata(state: AppState, name: str, version: str | None) -> Response:
    model = await asyncio.to_thread(find_model, state.pipeline, parse_name(name), version)
    return negotiation.json_response(model.metadata, headers=resolution_headers(model.resolution))


async def _config(state: AppState, name: str, version: str | None) -> Response:
    model = await asyncio.to_thread(find_model, state.pipeline, parse_name(name), version)
    headers = resolution_headers(model.resolution)
    return negotiation.json_response(repository.configuration(model), headers=headers)


async def _statistics(state: AppState, name: str, version: str | None) -> Response:
    entries = await asyncio.to_thread(repository.statistics, state, name, version)
    return negotiation.json_response(ModelStatisticsResponse(model_stats=entries))


async def _ready(state: AppState, name: str, version: str | None) -> Response:
    await asyncio.to_thread(check_ready, state, name, version)
    return negotiation.json_response(ModelReadyResponse(name=name, ready=True))


async def _infer(request: Request, text: str, version: str | None) -> Response:
    state, name = app_state(request), parse_name(text)
    await check_before_body(request, state, name)
    payload = await tensors.read_request(request, state.body_parser)
    return await infer_tensors(request, state, name, version, payload, tensor_response)
