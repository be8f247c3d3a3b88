"""The requests of a large call: one for each part, which is made smaller where the service asks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import httpx
import orjson
from safetensors.numpy import save

from stitchwork.client.chunks import (
    Item,
    Rows,
    ServiceLimits,
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
    Request,
    query_texts,
    send_json,
    without_none,
)
from stitchwork.client.part_sizes import PartSizes
from stitchwork.client.partial_results import PartialResult, request_digest
from stitchwork.client.service_errors import ServiceError
from stitchwork.errors import DeadlineExceededError, StitchworkError


class Client(Protocol):
    """What a call reads of its client.

    Attributes:
        in_flight: PartFlows that may be in progress at the same time.
        timeout: Seconds that one request may take.
        restarts: How often a call begins again whose versions are replaced during it.
        limits: Limits of one request, once they were read.
    """

    in_flight: int
    timeout: float
    restarts: int
    limits: ServiceLimits | None


class PartResponse(NamedTuple):
    """A part of a call whose response has arrived.

    Attributes:
        start: Index of its first input.
        size: Number of its inputs.
        response: The response.
        digest: Digest of its request.
    """

    start: int
    size: int
    response: httpx.Response
    digest: str


class PartOutcome(NamedTuple):
    """The responses to a part, which may have been sent as several smaller ones.

    Attributes:
        parts: Those that have arrived.
        error: Why there are no more.
    """

    parts: Sequence[PartResponse]
    error: StitchworkError | None = None


class PartFlows(NamedTuple):
    """The parts of a call.

    Attributes:
        flows: A flow for each part, which sends it.
        first_alone: Whether the others wait for the response to the first one, whose time decides
            the size of the others.
    """

    flows: Iterator[Flow[PartOutcome]]
    first_alone: bool


class RowRequests(NamedTuple):
    """Makes the requests for parts of rows."""

    path: str
    query: Mapping[str, Any]
    rows: Rows
    accept: str

    def __call__(self, start: int, stop: int, is_part: bool = True) -> Request:
        """The request for the rows from one index up to another."""
        body = save({"embeddings": float32_rows(self.rows[start:stop], start)})
        headers = {"Content-Type": SAFETENSORS, "Accept": self.accept}
        query = query_texts(self.query)
        return Request("POST", self.path, query, headers, body, is_part=is_part)


class ItemRequests(NamedTuple):
    """Makes the requests for parts of raw inputs."""

    path: str
    fields: Mapping[str, Any]
    accept: str

    def __call__(self, items: Sequence[str], *, is_part: bool = True) -> Request:
        """The request for raw inputs as JSON strings."""
        body = orjson.dumps(without_none({"items": items, **self.fields}))
        headers = {"Content-Type": JSON, "Accept": self.accept}
        return Request("POST", self.path, {}, headers, body, is_part=is_part)


def _limits(client: Client) -> Flow[ServiceLimits]:
    """The limits of one request, read once for a client."""
    if client.limits is None:
        client.limits = ServiceLimits.from_info((yield from send_json("GET", "/info")))
    return client.limits


def _runs(partial: PartialResult) -> list[tuple[int, int]]:
    """What is missing; of a call without inputs a run without any, which the service refuses."""
    return partial.missing if partial.total else [(0, 0)]


def send_rows(
    client: Client, rows: Rows, request: RowRequests, partial: PartialResult
) -> Flow[PartFlows]:
    """The parts of a call with embeddings that are missing."""
    limits = None if rows_are_small(rows) else (yield from _limits(client))

    def send(part: slice) -> Flow[PartOutcome]:
        message = request(part.start, part.stop, is_part=limits is not None)
        return PartOutcome(((yield from _send_part(message, part.start, part.stop - part.start)),))

    flows = (send(part) for part in row_parts(rows, limits, _runs(partial)))
    return PartFlows(flows, first_alone=False)


def send_items(
    client: Client, items: Sequence[Item], request: ItemRequests, partial: PartialResult
) -> Flow[PartFlows]:
    """The parts of a call with raw inputs that are missing."""
    limits = None if items_are_small(items) else (yield from _limits(client))
    sizes = PartSizes(limits.items if limits else len(items), client.in_flight, client.timeout)

    def send(start: int, part: list[str]) -> Flow[PartOutcome]:
        """Send a part, in smaller ones if the service would not compute it in time."""
        responses, done, size = list[PartResponse](), 0, len(part)
        while done < len(part) or not responses:
            message = request(part[done : done + size], is_part=limits is not None)
            sent, in_progress = size, sizes.begin(size)
            try:
                response = yield from _send_part(message, start + done, sent)
            except (ServiceError, DeadlineExceededError) as error:
                size = _smaller_size(error, sent)
                if not size:
                    return PartOutcome(responses, error)
                sizes.limit(size)
                continue
            finally:
                sizes.end(sent)
            sizes.record(in_progress, response.response.elapsed.total_seconds())
            responses.append(response)
            done += size
            size = len(part) - done
        return PartOutcome(responses)

    parts = item_parts(items, limits, _runs(partial), lambda: sizes.size)
    return PartFlows((send(start, part) for start, part in parts), first_alone=True)


def _send_part(request: Request, start: int, count: int) -> Flow[PartResponse]:
    try:
        response: httpx.Response = yield request
    except ServiceError as error:
        shift_pointer(error, start)
        raise
    return PartResponse(start, count, response, request_digest(request))


def _smaller_size(error: Exception, size: int) -> int:
    """How many of so many items to send instead; 0 if fewer would get the same error."""
    if isinstance(error, DeadlineExceededError):
        return size // 2
    max_items = error.max_items if isinstance(error, ServiceError) else None
    return max_items if max_items and max_items < size else 0
