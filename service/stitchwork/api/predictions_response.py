"""Responses with the predictions of a head, whole or in slices."""

from typing import Any

from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.content.sliced_json import (
    SLICE_VALUES,
    SlicedJsonResponse,
    check_json_values,
    row_slices,
)
from stitchwork.api.limits import RequestLimits
from stitchwork.api.provenance import result_headers
from stitchwork.api.schemas.response_model import json_fields
from stitchwork.api.schemas.responses import ClassifyResponse, StitchResponse
from stitchwork.geometry.classifier import MULTI_LABEL, REGRESSION
from stitchwork.inference.pipeline import Pipeline
from stitchwork.inference.resolve import head_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Head


def check_predictions(count: int, head: Head, top: int, limits: RequestLimits) -> None:
    """Check the number of labels and scores in a response, before they are computed.

    Args:
        count: Number of predictions.
        head: The head that makes them.
        top: Number of labels in `top` of each.
        limits: Their bound.

    Raises:
        InputTooLargeError: If there are more than `max_json_values`.
    """
    alternative = "send fewer inputs in a request, or a smaller top"
    check_json_values(count * _values(head, top), limits, alternative)


def predictions_response(
    pipeline: Pipeline,
    model: type[ClassifyResponse | StitchResponse],
    result: InferenceResult,
    top: int,
    **fields: Any,
) -> Response:
    """The response with the predictions of a result.

    Args:
        pipeline: Makes the predictions.
        model: Schema of the response.
        result: Its rows are scores of a head.
        top: Number of labels in `top` of each prediction.
        fields: Further fields of the response.
    """
    headers, count = result_headers(result), len(result.rows)
    values = _values(head_of(result.resolution), top)
    if count * values <= SLICE_VALUES:
        response = model.of(result, pipeline.predict(result, top), **fields)
        return negotiation.json_response(response, headers=headers)
    rest = dict(json_fields(model.of(result, [], **fields)))
    del rest["predictions"]
    slices = (pipeline.predict(result.rows_of(rows), top) for rows in row_slices(count, 2 * values))
    return SlicedJsonResponse("predictions", slices, rest, headers)


def _values(head: Head, top: int) -> int:
    """The largest number of labels and scores in one prediction."""
    classes = len(head.labels)
    if head.problem_type == REGRESSION:
        return 2 * classes
    count = min(top, classes)
    return 2 * (count + classes if head.problem_type == MULTI_LABEL else count)
