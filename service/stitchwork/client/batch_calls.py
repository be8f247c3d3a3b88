"""Calls that may be too large for one request: sent in parts, several at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import load, save

from stitchwork.client.chunks import (
    Item,
    Limits,
    Versions,
    are_few,
    as_rows,
    is_small,
    item_parts,
    moved,
    row_parts,
)
from stitchwork.client.flows import (
    JSON,
    SAFETENSORS,
    Flow,
    Many,
    Request,
    ask_json,
    texts,
    without_none,
)
from stitchwork.client.progress import Progress, shown
from stitchwork.client.service_errors import ServiceError, json_of
from stitchwork.errors import InvalidInputError

Predictions: TypeAlias = list[dict[str, Any]]


class Client(Protocol):
    """What a client knows of the service.

    Attributes:
        in_flight: Parts that may be under way at the same time.
        limits: What one request may hold, once it was asked.
    """

    in_flight: int
    limits: Limits | None


class Translated(NamedTuple):
    """Rows of another space, and what the service says of them.

    Attributes:
        rows: (n, d) float32, or what took them instead.
        undefined: Which inputs stand at their space's mean, and so have no direction.
        uncovered: Which inputs lie outside what the anchors cover.
    """

    rows: Any
    undefined: NDArray[np.int64]
    uncovered: NDArray[np.int64]


class _Part(NamedTuple):
    start: int
    size: int
    answer: httpx.Response


def rows_to_rows(
    client: Client,
    path: str,
    query: Mapping[str, Any],
    rows: Any,
    out: Any,
    progress: Progress | bool,
) -> Flow[Translated]:
    """Send embeddings, and take the rows that come of them."""
    parts, total = yield from _embeddings(client, path, query, rows, SAFETENSORS)
    return (yield from _rows(client, parts, total, out, progress))


def rows_to_predictions(
    client: Client, path: str, query: Mapping[str, Any], rows: Any, progress: Progress | bool
) -> Flow[Predictions]:
    """Send embeddings, and take the predictions that come of them."""
    parts, total = yield from _embeddings(client, path, query, rows, JSON)
    return (yield from _predictions(client, parts, total, progress))


def items_to_rows(
    client: Client,
    path: str,
    told: Mapping[str, Any],
    items: Sequence[Item],
    out: Any,
    progress: Progress | bool,
) -> Flow[Translated]:
    """Send raw inputs, and take the rows that come of them."""
    parts = yield from _items(client, path, told, items, SAFETENSORS)
    return (yield from _rows(client, parts, len(items), out, progress))


def items_to_predictions(
    client: Client,
    path: str,
    told: Mapping[str, Any],
    items: Sequence[Item],
    progress: Progress | bool,
) -> Flow[Predictions]:
    """Send raw inputs, and take the predictions that come of them."""
    parts = yield from _items(client, path, told, items, JSON)
    return (yield from _predictions(client, parts, len(items), progress))


def _limits(client: Client) -> Flow[Limits]:
    """What one request may hold; asked once."""
    if client.limits is None:
        client.limits = Limits.of((yield from ask_json("GET", "/info")))
    return client.limits


def _embeddings(
    client: Client, path: str, query: Mapping[str, Any], value: Any, accept: str
) -> Flow[tuple[Iterator[Flow[_Part]], int]]:
    rows = as_rows(value)
    limits = None if is_small(rows) else (yield from _limits(client))
    headers = {"Content-Type": SAFETENSORS, "Accept": accept}

    def send(part: slice) -> Flow[_Part]:
        body = save({"embeddings": np.ascontiguousarray(rows[part], np.float32)})
        request = Request("POST", path, texts(query), headers, body, is_part=limits is not None)
        return (yield from _sent(request, part.start, part.stop - part.start))

    return (send(part) for part in row_parts(rows, limits)), rows.shape[0]


def _items(
    client: Client, path: str, told: Mapping[str, Any], items: Sequence[Item], accept: str
) -> Flow[Iterator[Flow[_Part]]]:
    limits = None if are_few(items) else (yield from _limits(client))
    headers = {"Content-Type": JSON, "Accept": accept}

    def send(start: int, part: list[str]) -> Flow[_Part]:
        body = orjson.dumps(without_none({"items": part, **told}))
        request = Request("POST", path, {}, headers, body, is_part=limits is not None)
        return (yield from _sent(request, start, len(part)))

    return (send(start, part) for start, part in item_parts(items, limits))


def _sent(request: Request, start: int, count: int) -> Flow[_Part]:
    try:
        answer: httpx.Response = yield request
    except ServiceError as error:
        moved(error, start)
        raise
    return _Part(start, count, answer)


def _rows(
    client: Client,
    parts: Iterator[Flow[_Part]],
    total: int,
    out: Any,
    progress: Progress | bool,
) -> Flow[Translated]:
    undefined: list[NDArray[np.int64]] = []
    uncovered: list[NDArray[np.int64]] = []

    def take(part: _Part) -> None:
        nonlocal out
        body = part.answer.content
        rows = load(body)["embeddings"]
        if out is None:
            out = np.empty((total, rows.shape[1]), np.float32)
        wanted = getattr(out, "shape", (total, rows.shape[1]))
        if wanted != (total, rows.shape[1]):
            expected = (total, rows.shape[1])
            raise InvalidInputError(f"out: expected shape {expected}, got {tuple(wanted)}")
        out[part.start : part.start + part.size] = rows
        told = _metadata(body)
        for name, found in (("undefined", undefined), ("uncovered", uncovered)):
            found.append(np.asarray(orjson.loads(told.get(name, "[]")), np.int64) + part.start)

    yield from _each(client, parts, total, take, progress)
    return Translated(out, np.sort(np.concatenate(undefined)), np.sort(np.concatenate(uncovered)))


def _predictions(
    client: Client, parts: Iterator[Flow[_Part]], total: int, progress: Progress | bool
) -> Flow[Predictions]:
    found: dict[int, Predictions] = {}

    def take(part: _Part) -> None:
        found[part.start] = json_of(part.answer)["predictions"]

    yield from _each(client, parts, total, take, progress)
    return [told for start in sorted(found) for told in found[start]]


def _each(
    client: Client,
    parts: Iterator[Flow[_Part]],
    total: int,
    take: Callable[[_Part], None],
    progress: Progress | bool,
) -> Flow[None]:
    """Send all parts, and take the answers as they come."""
    versions, done = Versions(), 0
    with shown(progress, f"{total:,}", total) as tell:

        def each(part: _Part) -> None:
            nonlocal done
            versions.check(part.answer.headers)
            take(part)
            done += part.size
            tell(done, total)

        yield Many(parts, client.in_flight, each)


def _metadata(body: bytes) -> dict[str, str]:
    """What a safetensors body says beside its tensors."""
    header = orjson.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    found: dict[str, str] = header.get("__metadata__") or {}
    return found
