"""Calls that may be too large for one request: sent in parts, several at a time."""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import load

from stitchwork.client.chunks import Item, VersionCheck, as_rows, json_items
from stitchwork.client.flows import JSON, SAFETENSORS, Flow, Parallel
from stitchwork.client.part_requests import (
    Client,
    ItemRequests,
    PartFlows,
    PartOutcome,
    PartResponse,
    RowRequests,
    send_items,
    send_rows,
)
from stitchwork.client.partial_results import CompletePart, PartialResult, Predictions
from stitchwork.client.progress import Progress, progress_callback
from stitchwork.client.row_sinks import RowSink, open_sink
from stitchwork.client.service_errors import read_json
from stitchwork.errors import InvalidInputError, StitchworkError, VersionMismatchError

response_log = logging.getLogger(__name__)
"""Receives sentences of the service for the user, which are no events of a process."""


class TranslationResult(NamedTuple):
    """Rows of the target space, and what the service reports about single rows.

    Attributes:
        rows: (n, d) float32, or the `out` that they were written to.
        undefined: Indices of inputs at the mean of their space, which have no direction.
        uncovered: Indices of inputs outside the region that the anchors cover.
    """

    rows: Any
    undefined: NDArray[np.int64]
    uncovered: NDArray[np.int64]


class CallOptions(NamedTuple):
    """How a large call is made.

    Attributes:
        progress: Called with the inputs done and all inputs; True draws a bar.
        resume: What has arrived of an earlier call with the same inputs and options.
    """

    progress: Progress | bool = False
    resume: PartialResult | None = None


P = ParamSpec("P")
R = TypeVar("R")


def _restartable(
    call: Callable[Concatenate[Client, CallOptions, P], Flow[R]],
) -> Callable[Concatenate[Client, CallOptions, P], Flow[R]]:
    """A call that begins again, so often as the client allows, if its versions are replaced."""

    @wraps(call)
    def restarted(
        client: Client, options: CallOptions, /, *args: P.args, **fields: P.kwargs
    ) -> Flow[R]:
        for remaining in range(client.restarts, -1, -1):
            try:
                return (yield from call(client, options, *args, **fields))
            except VersionMismatchError:
                if not remaining:
                    raise
                # What has arrived is of versions that serve no more.
                options = options._replace(resume=None)
        raise AssertionError("unreachable")

    return restarted


@_restartable
def rows_to_rows(
    client: Client,
    options: CallOptions,
    path: str,
    query: Mapping[str, Any],
    value: Any,
    scale: Any,
    out: Any,
) -> Flow[TranslationResult]:
    """Send embeddings, and receive rows."""
    rows = as_rows(value, scale)
    partial = options.resume or PartialResult(rows.shape[0])
    request = RowRequests(path, query, rows, SAFETENSORS)
    partial.check(rows.shape[0], lambda start, stop: request(start, stop))
    with _open_output(out, partial, rows) as sink:
        parts = yield from send_rows(client, rows, request, partial)
        return (yield from _receive_rows(client, parts, partial, sink, options.progress))


@_restartable
def rows_to_predictions(
    client: Client,
    options: CallOptions,
    path: str,
    query: Mapping[str, Any],
    value: Any,
    scale: Any,
) -> Flow[Predictions]:
    """Send embeddings, and receive predictions."""
    rows = as_rows(value, scale)
    partial = options.resume or PartialResult(rows.shape[0])
    request = RowRequests(path, query, rows, JSON)
    partial.check(rows.shape[0], lambda start, stop: request(start, stop))
    parts = yield from send_rows(client, rows, request, partial)
    return (yield from _receive_predictions(client, parts, partial, options.progress))


@_restartable
def items_to_rows(
    client: Client,
    options: CallOptions,
    path: str,
    fields: Mapping[str, Any],
    items: Sequence[Item],
    out: Any,
) -> Flow[TranslationResult]:
    """Send raw inputs, and receive rows."""
    partial = options.resume or PartialResult(len(items))
    request = ItemRequests(path, fields, SAFETENSORS)
    partial.check(len(items), lambda start, stop: request(json_items(items[start:stop])))
    with _open_output(out, partial) as sink:
        parts = yield from send_items(client, items, request, partial)
        return (yield from _receive_rows(client, parts, partial, sink, options.progress))


@_restartable
def items_to_predictions(
    client: Client,
    options: CallOptions,
    path: str,
    fields: Mapping[str, Any],
    items: Sequence[Item],
) -> Flow[Predictions]:
    """Send raw inputs, and receive predictions."""
    partial = options.resume or PartialResult(len(items))
    request = ItemRequests(path, fields, JSON)
    partial.check(len(items), lambda start, stop: request(json_items(items[start:stop])))
    parts = yield from send_items(client, items, request, partial)
    return (yield from _receive_predictions(client, parts, partial, options.progress))


def _receive_rows(
    client: Client, parts: PartFlows, partial: PartialResult, out: Any, progress: Progress | bool
) -> Flow[TranslationResult]:
    _check_dtype(out)
    if out is not None:
        partial.rows = out

    def on_part(part: PartResponse) -> None:
        body = part.response.content
        rows = load(body)["embeddings"]
        expected = (partial.total, rows.shape[1])
        if partial.rows is None:
            partial.rows = np.zeros(expected, np.float32)
        shape = getattr(partial.rows, "shape", expected)
        if shape != expected:
            raise InvalidInputError(f"out: expected shape {expected}, got {tuple(shape)}")
        partial.rows[part.start : part.start + part.size] = rows
        partial.width = rows.shape[1]
        metadata = _metadata(body)
        for name, indices in (("undefined", partial.undefined), ("uncovered", partial.uncovered)):
            indices.extend(part.start + i for i in orjson.loads(metadata.get(name, "[]")))

    yield from _receive(client, parts, partial, on_part, progress)
    undefined, uncovered = (
        np.sort(np.asarray(indices, np.int64)) for indices in (partial.undefined, partial.uncovered)
    )
    return TranslationResult(partial.rows, undefined, uncovered)


def _open_output(
    out: Any, partial: PartialResult, source: Any = None
) -> AbstractContextManager[Any]:
    """The destination of rows: a file by its path, or what was passed."""
    if isinstance(out, str | os.PathLike):
        return open_sink(Path(os.fspath(out)), partial, source)
    return nullcontext(out)


def _check_dtype(out: Any) -> None:
    dtype = getattr(out, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind != "f":
        raise InvalidInputError(
            f"out: expected an array of float32 (or float16 or float64), got {dtype}"
        )


def _receive_predictions(
    client: Client, parts: PartFlows, partial: PartialResult, progress: Progress | bool
) -> Flow[Predictions]:
    warnings: dict[str, list[str]] = {}

    def on_part(part: PartResponse) -> None:
        fields = read_json(part.response)
        partial.predictions[part.start] = fields["predictions"]
        for warning in fields.get("warnings", ()):
            # Those of several parts differ in their numbers.
            warnings.setdefault(re.sub(r"\d+", "0", warning), []).append(warning)

    yield from _receive(client, parts, partial, on_part, progress)
    for first, *others in warnings.values():
        response_log.warning(f"{first} (and {len(others)} more such warnings)" if others else first)
    starts = sorted(partial.predictions)
    return [prediction for start in starts for prediction in partial.predictions[start]]


def _receive(
    client: Client,
    parts: PartFlows,
    partial: PartialResult,
    on_part: Callable[[PartResponse], None],
    progress: Progress | bool,
) -> Flow[None]:
    """Send all parts, and handle the responses in the order of their arrival.

    Raises:
        StitchworkError: The error of a part, with what has arrived of the others.
    """
    versions, total = VersionCheck(partial.versions), partial.total
    with progress_callback(progress, f"{total:,}", total) as report:

        def on_result(responses: PartOutcome) -> None:
            for part in responses.parts:
                versions.check(part.response.headers)
                on_part(part)
                partial.parts[part.start] = CompletePart(part.size, part.digest)
                if isinstance(partial.rows, RowSink):
                    partial.rows.save_state()
            report(partial.count, total)
            if responses.error is not None:
                raise responses.error

        try:
            if parts.first_alone:
                first = next(parts.flows, None)
                if first is not None:
                    on_result((yield from first))
            yield Parallel(parts.flows, client.in_flight, on_result)
        except StitchworkError as error:
            # PartFlows of two versions do not belong together.
            if partial.parts and not isinstance(error, VersionMismatchError):
                error.partial = partial
            raise


def _metadata(body: bytes) -> dict[str, str]:
    """The metadata of a safetensors body."""
    header = orjson.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__") or {}
    return metadata
