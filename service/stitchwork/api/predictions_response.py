"""Responses with the predictions of a head, whole or in slices."""

from collections.abc import Container
from typing import Any, TypeAlias

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
from stitchwork.api.schemas.inference_requests import ClassifyRequest, StitchRequest
from stitchwork.api.schemas.response_model import json_fields
from stitchwork.api.schemas.responses import ClassifyResponse, StitchResponse
from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import MULTI_LABEL, REGRESSION
from stitchwork.inference.pipeline import Pipeline
from stitchwork.inference.resolve import head_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Head

PredictionsRequest: TypeAlias = ClassifyRequest | StitchRequest


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


def check_request(
    request: PredictionsRequest, count: int, head: Head, limits: RequestLimits
) -> None:
    """Check what a request wants of a head, before it is computed.

    Args:
        request: The request.
        count: Number of its inputs or rows.
        head: The head.
        limits: Bound of its response.

    Raises:
        InputTooLargeError: If the response has more than `max_json_values`.
        InvalidInputError: If the head has no confidence that could be too low.
    """
    if request.min_confidence and head.problem_type == REGRESSION:
        raise InvalidInputError(
            "expected no min_confidence for a regression, whose values have no confidence",
            pointer="/min_confidence",
        )
    check_predictions(count, head, request.top, limits)


def predictions_response(
    pipeline: Pipeline,
    model: type[ClassifyResponse | StitchResponse],
    result: InferenceResult,
    request: PredictionsRequest,
    nulls: Container[int] = (),
    **fields: Any,
) -> Response:
    """The response with the predictions of a result.

    Args:
        pipeline: Makes the predictions.
        model: Schema of the response.
        result: Its rows are scores of a head.
        request: What the client sent.
        nulls: Indices of inputs that have no prediction.
        fields: Further fields of the response.
    """
    headers, count = result_headers(result), len(result.rows)
    top = request.top
    values = _values(head_of(result.resolution), top)
    if count * values <= SLICE_VALUES:
        response = model.of(result, _predict(pipeline, result, request, nulls), **fields)
        return negotiation.json_response(response, headers=headers)
    rest = dict(json_fields(model.of(result, [], **fields)))
    del rest["predictions"]
    slices = (
        _predict(pipeline, result.rows_of(rows), request, nulls, rows.start)
        for rows in row_slices(count, 2 * values)
    )
    return SlicedJsonResponse("predictions", slices, rest, headers)


def _predict(
    pipeline: Pipeline,
    result: InferenceResult,
    request: PredictionsRequest,
    nulls: Container[int],
    start: int = 0,
) -> Any:
    """The predictions of consecutive inputs, None for some.

    Args:
        pipeline: Makes the predictions.
        result: Of these inputs.
        request: What the client sent.
        nulls: Indices of inputs that have no prediction.
        start: Index of the first of these inputs.
    """
    indices = [i for i in range(len(result.rows)) if start + i not in nulls]
    is_whole = len(indices) == len(result.rows)
    present = result if is_whole else result.rows_of(indices)
    predictions = pipeline.predict(present, request.top, request.min_confidence)
    if is_whole:
        return predictions
    entries: list[Any] = [None] * len(result.rows)
    for i, prediction in zip(indices, predictions, strict=True):
        entries[i] = prediction
    return entries


def _values(head: Head, top: int) -> int:
    """The largest number of labels and scores in one prediction."""
    classes = len(head.labels)
    if head.problem_type == REGRESSION:
        return 2 * classes
    count = min(top, classes)
    return 2 * (count + classes if head.problem_type == MULTI_LABEL else count)
