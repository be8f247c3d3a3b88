"""Translations as files, to run where there is no service."""

from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import ID_SCHEMA, AppState, PathId, StateDep, request_timeout
from stitchwork.api.openapi import with_timeout
from stitchwork.api.routes.provenance import version_headers
from stitchwork.errors import InvalidInputError
from stitchwork.export import translation_files
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.resources import Head, check_id

router = APIRouter(tags=["inference"])

FileFormat = Literal["safetensors", "onnx"]
MEDIA: Final[dict[FileFormat, str]] = {
    "safetensors": negotiation.SAFETENSORS,
    "onnx": negotiation.ONNX,
}
_BLOB: Final = {"schema": {"type": "string", "format": "binary"}}
ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file", "content": dict.fromkeys(MEDIA.values(), _BLOB)}
}


@router.get(
    "/spaces/{source}/translations/{target}",
    summary="Export a translation",
    responses=ANSWERS,
    response_class=Response,
    openapi_extra=with_timeout(),
)
async def export(
    source: PathId,
    target: PathId,
    request: Request,
    state: StateDep,
    bridge: BridgeName = DEFAULT_BRIDGE,
    head: Annotated[
        str | None, Query(description="Head to append; ONNX only.", json_schema_extra=ID_SCHEMA)
    ] = None,
    format_: Annotated[
        FileFormat | None, Query(alias="format", description="Unset: what `Accept` says.")
    ] = None,
) -> Response:
    """The map from one space to another, with the means, the scale and the versions it is of.

    Safetensors, or ONNX with inputs `embeddings` and outputs `translated` and `defined`; with a
    head also `logits` and `probabilities`, its labels in the model's properties.
    """
    state.executor.check_capacity()
    names = [check_id(source), check_id(target), *([check_id(head, "/head")] if head else [])]
    accepted = negotiation.preferred_media_type(
        request, tuple(MEDIA.values()), negotiation.SAFETENSORS
    )
    wanted = MEDIA[format_] if format_ else accepted
    if head and wanted != negotiation.ONNX:
        raise InvalidInputError("head: only an ONNX file can hold one", pointer="/head")
    return await state.executor.run(
        lambda: _export(state, names, bridge, wanted), request_timeout(request)
    )


def _export(state: AppState, names: list[str], bridge: BridgeName, media: str) -> Response:
    (source, target), stale = state.registry.spaces.ready(*names[:2])
    found = state.pipeline.translator.pair_map(source, target, bridge).map
    facts = {
        "source": source.id,
        "source_version": source.version,
        "target": target.id,
        "target_version": target.version,
        "bridge": bridge,
    }
    roles: dict[str, Any] = {"source": source, "target": target}
    classifier = None
    if names[2:]:
        (head,), old = state.registry.heads.ready(names[2])
        _check_home(head, target.id)
        stale, classifier, roles["head"] = stale or old, state.pipeline.classifiers.get(head), head
        facts |= {
            "head": head.id,
            "head_version": head.version,
            "labels": orjson.dumps(head.labels).decode(),
        }
    if media == negotiation.ONNX:
        data, ending = translation_files.as_onnx(found, facts, classifier), "onnx"
    else:
        data, ending = translation_files.as_safetensors(found, facts), "safetensors"
    name = f"{source.id}-to-{target.id}.{ending}"
    headers = version_headers(stale, **roles) | {
        "Content-Disposition": f'attachment; filename="{name}"'
    }
    return Response(data, 200, headers, media)


def _check_home(head: Head, target: str) -> None:
    if head.space != target:
        raise InvalidInputError(
            f"head {head.id} lives in space {head.space}, expected one of space {target}",
            pointer="/head",
        )
