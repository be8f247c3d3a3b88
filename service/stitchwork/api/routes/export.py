"""Export of maps as files that are applied without the service."""

from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    ID_SCHEMA,
    AppState,
    BridgeQuery,
    PathId,
    StateDep,
    request_timeout,
)
from stitchwork.api.openapi import with_timeout
from stitchwork.api.provenance import resolution_headers
from stitchwork.errors import InvalidInputError
from stitchwork.export.onnx_export import map_to_onnx
from stitchwork.export.safetensors_export import map_to_safetensors
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.ids import check_id
from stitchwork.resources import Head

router = APIRouter(tags=["inference"])

FileFormat = Literal["safetensors", "onnx"]
MEDIA_TYPES: Final[dict[FileFormat, str]] = {
    "safetensors": negotiation.SAFETENSORS,
    "onnx": negotiation.ONNX,
}
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file", "content": dict.fromkeys(MEDIA_TYPES.values(), _BINARY)}
}


@router.get(
    "/spaces/{source}/translations/{target}",
    summary="Export a map",
    responses=RESPONSES,
    response_class=Response,
    openapi_extra=with_timeout(),
)
async def export(
    source: PathId,
    target: PathId,
    request: Request,
    state: StateDep,
    bridge: BridgeQuery = DEFAULT_BRIDGE,
    head: Annotated[
        str | None,
        Query(description="Head to append; ONNX only.", json_schema_extra=ID_SCHEMA),
    ] = None,
    format_: Annotated[
        FileFormat | None, Query(alias="format", description="Unset: the format of `Accept`.")
    ] = None,
) -> Response:
    """The map from one space to another, with both means, the scale and the versions in metadata.

    Safetensors, or ONNX with input `embeddings` and outputs `translated` and `defined`; with a
    head also `logits` and `probabilities` or, of a regression, `values`; its labels, problem type
    and thresholds are in the model's properties.
    """
    state.executor.check_capacity()
    spaces = check_id(source), check_id(target)
    head_id = check_id(head, "/head") if head else None
    if format_:
        media_type = MEDIA_TYPES[format_]
    else:
        media_type = negotiation.preferred_media_type(
            request, tuple(MEDIA_TYPES.values()), negotiation.SAFETENSORS
        )
    if head_id and media_type != negotiation.ONNX:
        raise InvalidInputError(
            "head: expected format onnx, which alone can hold a head, got safetensors",
            pointer="/head",
        )
    return await state.executor.run(
        lambda: _export(state, spaces, head_id, bridge, media_type), request_timeout(request)
    )


def _export(
    state: AppState,
    spaces: tuple[str, str],
    head_id: str | None,
    bridge: BridgeName,
    media_type: str,
) -> Response:
    resolution = state.pipeline.resolve(
        source=spaces[0], target=spaces[1], head=head_id, bridge=bridge
    )
    source, target, head = resolution.source, resolution.destination, resolution.head
    pair_map = state.pipeline.translator.pair_map(source, target, bridge)
    metadata: dict[str, str] = {"bridge": bridge}
    for role, record in resolution.records.items():
        metadata |= {role: record.id, f"{role}_version": record.version}
    metadata |= {
        "source_norm_mean": repr(source.norm_mean),
        "source_norm_std": repr(source.norm_std),
    }
    classifier = None
    if head:
        classifier = state.pipeline.classifiers.get(head)
        metadata |= _head_metadata(head)
    if media_type == negotiation.ONNX:
        data, extension = map_to_onnx(pair_map.map, metadata, classifier), "onnx"
    else:
        data, extension = (
            map_to_safetensors(pair_map.map, metadata, pair_map.coverage),
            "safetensors",
        )
    name = f"{source.id}-to-{target.id}.{extension}"
    headers = resolution_headers(resolution)
    headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return Response(data, 200, headers, media_type)


def _head_metadata(head: Head) -> dict[str, str]:
    """What a program needs to read a head's scores, as properties of a model."""
    metadata = {
        "labels": orjson.dumps(head.labels).decode(),
        "problem_type": head.problem_type,
    }
    if head.thresholds is not None:
        metadata["thresholds"] = orjson.dumps(head.thresholds).decode()
    return metadata
