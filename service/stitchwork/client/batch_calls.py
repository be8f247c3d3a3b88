"""Calls that may be too large for one request: sent in parts, several at a time."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import load, save

from stitchwork.client.chunks import (
    Item,
    Rows,
    ServiceLimits,
    VersionCheck,
    as_rows,
    item_parts,
    items_are_small,
    row_parts,
    rows_are_small,
    shift_pointer,
)
from stitchwork.client.float_rows import float32_rows
from stitchwork.client.flows import (
    JSON,
    SAFETENSORS,
    Flow,
    Parallel,
    Request,
    query_texts,
    send_json,
    without_none,
)
from stitchwork.client.progress import Progress, progress_callback
from stitchwork.client.row_sinks import open_sink
from stitchwork.client.service_errors import ServiceError, read_json
from stitchwork.errors import DeadlineExceededError, InvalidInputError

Predictions: TypeAlias = list[dict[str, Any]]


class Client(Protocol):
    """What a call reads of its client.

    Attributes:
        in_flight: Parts that may be in progress at the same time.
        limits: Limits of one request, once they were read.
    """

    in_flight: int
    limits: ServiceLimits | None


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


class _Part(NamedTuple):
    start: int
    size: int
    response: httpx.Response


class _Parts(NamedTuple):
    """The parts of a call.

    Attributes:
        flows: A flow for each part, which sends it.
        first_alone: Whether the others wait for the response to the first one: from its work the
            service knows how many inputs a worker can embed in time.
    """

    flows: Iterator[Flow[list[_Part]]]
    first_alone: bool


def rows_to_rows(
    client: Client,
    path: str,
    query: Mapping[str, Any],
    value: Any,
    scale: Any,
    out: Any,
    progress: Progress | bool,
) -> Flow[TranslationResult]:
    """Send embeddings, and receive rows."""
    rows = as_rows(value, scale)
    with _open_output(out, rows.shape[0], rows) as sink:
        parts = yield from _send_rows(client, path, query, rows, SAFETENSORS)
        return (yield from _receive_rows(client, parts, rows.shape[0], sink, progress))


def rows_to_predictions(
    client: Client,
    path: str,
    query: Mapping[str, Any],
    value: Any,
    scale: Any,
    progress: Progress | bool,
) -> Flow[Predictions]:
    """Send embeddings, and receive predictions."""
    rows = as_rows(value, scale)
    parts = yield from _send_rows(client, path, query, rows, JSON)
    return (yield from _receive_predictions(client, parts, rows.shape[0], progress))


def items_to_rows(
    client: Client,
    path: str,
    fields: Mapping[str, Any],
    items: Sequence[Item],
    out: Any,
    progress: Progress | bool,
) -> Flow[TranslationResult]:
    """Send raw inputs, and receive rows."""
    with _open_output(out, len(items)) as sink:
        parts = yield from _send_items(client, path, fields, items, SAFETENSORS)
        return (yield from _receive_rows(client, parts, len(items), sink, progress))


def items_to_predictions(
    client: Client,
    path: str,
    fields: Mapping[str, Any],
    items: Sequence[Item],
    progress: Progress | bool,
) -> Flow[Predictions]:
    """Send raw inputs, and receive predictions."""
    parts = yield from _send_items(client, path, fields, items, JSON)
    return (yield from _receive_predictions(client, parts, len(items), progress))


def _limits(client: Client) -> Flow[ServiceLimits]:
    """The limits of one request, read once for a client."""
    if client.limits is None:
        client.limits = ServiceLimits.from_info((yield from send_json("GET", "/info")))
    return client.limits


def _send_rows(
    client: Client, path: str, query: Mapping[str, Any], rows: Rows, accept: str
) -> Flow[_Parts]:
    limits = None if rows_are_small(rows) else (yield from _limits(client))
    headers = {"Content-Type": SAFETENSORS, "Accept": accept}

    def send(part: slice) -> Flow[list[_Part]]:
        body = save({"embeddings": float32_rows(rows[part], part.start)})
        is_part = limits is not None
        request = Request("POST", path, query_texts(query), headers, body, is_part=is_part)
        return [(yield from _send_part(request, part.start, part.stop - part.start))]

    return _Parts((send(part) for part in row_parts(rows, limits)), first_alone=False)


def _send_items(
    client: Client, path: str, fields: Mapping[str, Any], items: Sequence[Item], accept: str
) -> Flow[_Parts]:
    limits = None if items_are_small(items) else (yield from _limits(client))
    headers = {"Content-Type": JSON, "Accept": accept}

    def send(start: int, part: list[str]) -> Flow[list[_Part]]:
        """Send a part, in smaller ones if the service would not compute it in time."""
        responses, done, size = list[_Part](), 0, len(part)
        while done < len(part) or not responses:
            body = orjson.dumps(without_none({"items": part[done : done + size], **fields}))
            request = Request("POST", path, {}, headers, body, is_part=limits is not None)
            try:
                responses.append((yield from _send_part(request, start + done, size)))
            except (ServiceError, DeadlineExceededError) as error:
                size = _smaller_size(error, size)
                if not size:
                    raise
                continue
            done += size
            size = len(part) - done
        return responses

    flows = (send(start, part) for start, part in item_parts(items, limits))
    return _Parts(flows, first_alone=True)


def _send_part(request: Request, start: int, count: int) -> Flow[_Part]:
    try:
        response: httpx.Response = yield request
    except ServiceError as error:
        shift_pointer(error, start)
        raise
    return _Part(start, count, response)


def _smaller_size(error: Exception, size: int) -> int:
    """How many of so many items to send instead; 0 if fewer would get the same error."""
    if isinstance(error, DeadlineExceededError):
        return size // 2
    max_items = error.max_items if isinstance(error, ServiceError) else None
    return max_items if max_items and max_items < size else 0


def _receive_rows(
    client: Client,
    parts: _Parts,
    total: int,
    out: Any,
    progress: Progress | bool,
) -> Flow[TranslationResult]:
    _check_dtype(out)
    undefined: list[NDArray[np.int64]] = []
    uncovered: list[NDArray[np.int64]] = []

    def on_part(part: _Part) -> None:
        nonlocal out
        body = part.response.content
        rows = load(body)["embeddings"]
        expected = (total, rows.shape[1])
        if out is None:
            out = np.empty(expected, np.float32)
        shape = getattr(out, "shape", expected)
        if shape != expected:
            raise InvalidInputError(f"out: expected shape {expected}, got {tuple(shape)}")
        out[part.start : part.start + part.size] = rows
        metadata = _metadata(body)
        for name, indices in (("undefined", undefined), ("uncovered", uncovered)):
            part_indices = np.asarray(orjson.loads(metadata.get(name, "[]")), np.int64)
            indices.append(part_indices + part.start)

    yield from _receive(client, parts, total, on_part, progress)
    return TranslationResult(
        out, np.sort(np.concatenate(undefined)), np.sort(np.concatenate(uncovered))
    )


def _open_output(out: Any, count: int, source: Any = None) -> AbstractContextManager[Any]:
    """The destination of rows: a file by its path, or what was passed."""
    if isinstance(out, str | os.PathLike):
        return open_sink(Path(os.fspath(out)), count, source)
    return nullcontext(out)


def _check_dtype(out: Any) -> None:
    dtype = getattr(out, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind != "f":
        raise InvalidInputError(
            f"out: expected an array of float32 (or float16 or float64), got {dtype}"
        )


def _receive_predictions(
    client: Client, parts: _Parts, total: int, progress: Progress | bool
) -> Flow[Predictions]:
    predictions: dict[int, Predictions] = {}

    def on_part(part: _Part) -> None:
        predictions[part.start] = read_json(part.response)["predictions"]

    yield from _receive(client, parts, total, on_part, progress)
    return [prediction for start in sorted(predictions) for prediction in predictions[start]]


def _receive(
    client: Client,
    parts: _Parts,
    total: int,
    on_part: Callable[[_Part], None],
    progress: Progress | bool,
) -> Flow[None]:
    """Send all parts, and handle the responses in the order of their arrival."""
    versions, done = VersionCheck(), 0
    with progress_callback(progress, f"{total:,}", total) as report:

        def on_result(responses: list[_Part]) -> None:
            nonlocal done
            for part in responses:
                versions.check(part.response.headers)
                on_part(part)
                done += part.size
            report(done, total)

        if parts.first_alone:
            on_result((yield from next(parts.flows)))
        yield Parallel(parts.flows, client.in_flight, on_result)


def _metadata(body: bytes) -> dict[str, str]:
    """The metadata of a safetensors body."""
    header = orjson.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__") or {}
    return metadata
