"""Checks of a request before its body is read: what would be refused anyway is not received.

A short body is read first, since that takes less time, unless its client waits for permission to
send it (`Expect: 100-continue`).
"""

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request

from stitchwork.api.dependencies import AppState, request_timeout
from stitchwork.api.message_state import request_headers
from stitchwork.api.raw_inputs import resolve_now
from stitchwork.ids import check_id, is_id
from stitchwork.inference.resolve import encoder_of

SHORT_BODY: Final = 64 * 1024
"""Declared size of a body up to which it is read before its request is checked."""


def is_checked_early(request: Request) -> bool:
    """Whether a request is checked before its body is read."""
    headers = request_headers(request.scope)
    length = headers.get(b"content-length", b"")
    return not length.isdigit() or int(length) > SHORT_BODY or b"expect" in headers


async def check_registered(
    request: Request,
    state: AppState,
    spaces: Sequence[str] = (),
    *,
    head: str | None = None,
    parameters: Sequence[str] = (),
) -> None:
    """Refuse a request that names something that cannot be used.

    Args:
        request: The request.
        state: The state of the API.
        spaces: Ids of spaces in its path.
        head: Id of a head in its path.
        parameters: Parameters of its query that are ids of spaces, where a body of arrays has them.

    Raises:
        UnknownResourceError: If one is not registered.
        NotReadyError: If one has no ready version yet.
        RegistryUnavailableError: If the registry is unavailable and they are not in memory.
    """
    if not is_checked_early(request):
        return
    # An id of another form is refused with the other fields.
    values = [request.query_params.get(name, "") for name in parameters]
    for space in (*map(check_id, spaces), *filter(is_id, values)):
        await resolve_now(state, source=space)
    if head is not None:
        await resolve_now(state, head=check_id(head))


async def check_encoder(
    request: Request, state: AppState, source: str, *targets: str | None, head: str | None = None
) -> None:
    """Refuse a request that needs an encoder, if no worker would get its inputs.

    Args:
        request: The request.
        state: The state of the API.
        source: Id of the space whose encoder it needs.
        targets: Ids of other spaces in its path; None is left out.
        head: Id of a head in its path.

    Raises:
        QueueFullError: If the queue of the encoder has no room, or the deadline is too short.
        NoWorkerError: If no live worker takes work for the encoder.
        QueueUnavailableError: If the queue server is unavailable.
        InvalidInputError: If the space has no encoder.
        StitchworkError: What `check_registered` raises.
    """
    check_capacity(state, source)
    if not is_checked_early(request):
        return
    await check_registered(request, state, (source, *filter(None, targets)), head=head)
    resolution = await resolve_now(state, source=source)
    encoder = encoder_of(resolution.source)
    await state.producer.check_admission(encoder, request_timeout(request))


async def check_workers(request: Request, state: AppState) -> None:
    """Refuse a request whose body names its encoder, if there is no worker at all.

    Raises:
        NoWorkerError: If no worker is live.
        QueueUnavailableError: If the queue server is unavailable.
    """
    if is_checked_early(request):
        await state.producer.check_any_worker()


def check_capacity(state: AppState, space: str) -> None:
    """Refuse a request if the queue of its encoder had no room a moment ago, whatever its body.

    Args:
        state: The state of the API.
        space: Id of the space whose encoder the request needs.

    Raises:
        QueueFullError: If the queue of this encoder was full when last observed.
    """
    record = state.pipeline.registry.spaces.last(space)
    if record and record.encoder:
        state.producer.check_room(record.encoder)
