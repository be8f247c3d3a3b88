"""Which spaces and heads fit together, from the anchors alone or from a labelled sample."""

import asyncio
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from stitchwork.api.access import ADMIN
from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import (
    ID_SCHEMA,
    AppState,
    BridgeQuery,
    PathId,
    StateDep,
    request_timeout,
)
from stitchwork.api.early_checks import check_registered
from stitchwork.api.middleware import auth
from stitchwork.api.openapi import REPORT_RESPONSES, body, with_timeout
from stitchwork.api.provenance import result_headers, version_headers
from stitchwork.api.raw_inputs import check_truncate, infer_items
from stitchwork.api.reports import head_evaluation
from stitchwork.api.reports.labelled_sample import LabelledSample, embed_sample, resolve_sample
from stitchwork.api.reports.report_jobs import ReportState
from stitchwork.api.reports.space_comparison import MAX_SPACES
from stitchwork.api.request_lifetime import run_while_connected
from stitchwork.api.schemas.report_requests import HeadEvaluationRequest
from stitchwork.api.schemas.report_responses import CompatibilityResponse, HeadEvaluationResponse
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.ids import ID_PATTERN, check_id
from stitchwork.inference.resolve import Resolution
from stitchwork.resources import Floats, Space

router = APIRouter(tags=["compatibility"])

_ID: Final = ID_PATTERN.strip("^$")
IDS_PATTERN: Final = f"^{_ID}(,{_ID}){{0,{MAX_SPACES - 1}}}$"


@router.get(
    "/compatibility",
    summary="Compare the spaces of an anchor set",
    response_model=CompatibilityResponse,
    responses=REPORT_RESPONSES,
    openapi_extra=with_timeout(),
)
async def compare_spaces(
    request: Request,
    state: StateDep,
    anchor_set: Annotated[str, Query(description="Id of the set.", json_schema_extra=ID_SCHEMA)],
    bridge: BridgeQuery = DEFAULT_BRIDGE,
    spaces: Annotated[
        list[str] | None,
        Query(
            description=f"Ids, as one parameter each or separated by commas, at most {MAX_SPACES}; "
            "default: all.",
            json_schema_extra={"items": {"type": "string", "pattern": IDS_PATTERN}},
        ),
    ] = None,
    cursor: Annotated[
        str | None,
        Query(description="`cursor` of the page before.", json_schema_extra=ID_SCHEMA),
    ] = None,
) -> Response:
    """How well each space translates held-out anchors into each other space; needs no labels.

    Each pair of versions is compared once, in the background; until all pairs of the page are,
    the response is 202. A page has the pairs of up to 16 sources.
    """
    names = None if spaces is None else _names(spaces)
    after = None if cursor is None else check_id(cursor, "/cursor")
    read = partial(_compare, state, check_id(anchor_set, "/anchor_set"), names, bridge, after)
    return await state.report_jobs.respond(request, read, request_timeout(request))


def _names(values: list[str]) -> list[str]:
    return [check_id(name, "/spaces") for value in values for name in value.split(",")]


def _compare(
    state: AppState, set_id: str, names: list[str] | None, bridge: BridgeName, cursor: str | None
) -> ReportState:
    (anchor_set,), stale = state.registry.anchor_sets.ready(set_id)
    return state.comparisons.page(anchor_set, names, bridge, cursor, version_headers(stale))


@router.post(
    "/compatibility/{encoder}/{head}",
    summary="Evaluate a head on a labelled sample of an encoder",
    response_model=HeadEvaluationResponse,
    openapi_extra=with_timeout(
        body(HeadEvaluationRequest, array_field="embeddings", accepts_raw_inputs=True)
    ),
)
async def evaluate_head(
    encoder: PathId, head: PathId, request: Request, state: StateDep
) -> Response:
    """Accuracy through the bridge, without a bridge, and of the head's own encoder.

    Of a regression, the explained variance is in its place.

    With `calibrate` the sample also calibrates the confidence of further predictions.
    """
    seconds = request_timeout(request)
    state.executor.check_capacity()
    await check_registered(request, state, (encoder,), head=head)
    payload = await negotiation.read_body(
        request,
        HeadEvaluationRequest,
        state.body_parser,
        array_field="embeddings",
        accepts_raw_inputs=True,
    )
    if payload.calibrate:
        # A calibration changes the confidence of predictions for all callers.
        auth.require_scope(request, ADMIN)
    resolution, targets = await asyncio.to_thread(
        resolve_sample, state.pipeline, check_id(encoder), check_id(head), payload
    )
    embed = partial(_embed, state, payload, seconds)
    embedding = embed_sample(resolution, targets, payload, embed)
    sample = await run_while_connected(request, embedding)
    return await state.executor.run(partial(_evaluate, state, payload, sample), seconds)


async def _embed(
    state: AppState, payload: HeadEvaluationRequest, seconds: float, space: Space
) -> Floats:
    resolution = Resolution(space)
    check_truncate(resolution, payload.truncate)
    result = await infer_items(
        state,
        resolution,
        payload.items or [],
        truncate=payload.truncate,
        input_type=payload.input_type,
        seconds=seconds,
    )
    rows: Floats = result.rows
    return rows


def _evaluate(state: AppState, payload: HeadEvaluationRequest, sample: LabelledSample) -> Response:
    by_encoder = payload.items is not None
    result = state.pipeline.stitch_rows(sample.resolution, sample.rows, by_encoder=by_encoder)
    report = head_evaluation.evaluate(
        state.pipeline,
        sample,
        result,
        with_calibration=payload.calibrate,
        min_accuracy=payload.min_accuracy,
    )
    return negotiation.json_response(report, headers=result_headers(result))
