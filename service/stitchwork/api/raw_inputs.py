"""Raw inputs of a request: fetched by URL, decoded, and passed to the pipeline."""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from starlette.requests import Request

from stitchwork.api.dependencies import AppState
from stitchwork.api.direct_routes import reserve
from stitchwork.api.request_lifetime import run_while_connected
from stitchwork.api.row_inference import FLOAT32_BYTES, result_width
from stitchwork.api.schemas.items import decode_items
from stitchwork.errors import InvalidInputError
from stitchwork.inference.model_paths import hide_model_path
from stitchwork.inference.resolve import Resolution, encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.queue.costs import input_amounts
from stitchwork.resources import Input, LongText, Modality

BYTES_PER_VALUE: Final = 4
"""Bytes of base64 that are decoded in the time of arithmetic on one number, roughly."""


async def resolve_now(state: AppState, **ids: Any) -> Resolution:
    """Resolve the versions of a request: on the event loop if that takes no call."""
    known = state.pipeline.resolve_in_memory(**ids)
    if known is not None:
        return known
    return await asyncio.to_thread(partial(state.pipeline.resolve, **ids))


def check_truncate(resolution: Resolution, truncate: bool | None) -> None:
    """Refuse to cut inputs that are no texts.

    Clients of other protocols send it with whatever they send, so their routes ignore it.

    Raises:
        InvalidInputError: If `truncate` is true, and the source embeds images.
    """
    encoder = resolution.source.encoder
    if truncate and encoder is not None and encoder.modality != "text":
        raise InvalidInputError(
            f"expected truncate with texts, space {resolution.source.id} embeds "
            f"{encoder.modality}s",
            pointer="/truncate",
        )


async def charge(state: AppState, items: Sequence[Input], blank: int = 0) -> None:
    """Charge inputs to the rates of the request's key.

    Args:
        state: The state of the API.
        items: Decoded inputs.
        blank: Number of blank texts besides.

    Raises:
        InputTooLargeError: If there are more than a rate ever allows.
        RateLimitError: If a rate is used up.
    """
    if units := state.rate_limiter.units():
        amounts = input_amounts([*items, *[""] * blank], units)
        await state.rate_limiter.charge(**amounts)


async def infer_items(
    state: AppState,
    resolution: Resolution,
    items: Sequence[Input],
    *,
    truncate: bool | None,
    input_type: str | None = None,
    blank: int = 0,
    seconds: float,
) -> InferenceResult:
    """Decode raw inputs and embed them on a worker, which also translates and classifies them.

    Args:
        state: The state of the API.
        resolution: The versions to use; its source has an encoder. Without a target the inputs
            are not translated, without a head not classified.
        items: Texts, images in base64 or by URL, or the bytes of files.
        truncate: Cut texts that are too long; None takes the encoder's setting.
        input_type: Selects a prompt of the encoder's model; None takes the encoder's own.
        blank: Number of further texts of the request, which are charged, but not embedded.
        seconds: Deadline of the result, in seconds from now.

    Raises:
        InvalidInputError: If the source has no encoder, or an item is of another modality.
        InputTooLargeError: If there are more than `max_items`, or than a rate of the key allows.
        RateLimitError: If a rate of the key is used up.
    """
    modality = encoder_of(resolution.source).modality
    async with state.image_fetcher.by_value(items, modality) as values:
        size = sum(map(len, values)) // BYTES_PER_VALUE
        decode = partial(decode_items, values, modality, state.limits.max_items)
        decoded = await state.executor.finish(decode, size)
        await charge(state, decoded, blank)
        with hide_model_path(resolution.source):
            return await state.pipeline.infer_items(
                resolution, decoded, truncate=truncate, input_type=input_type, seconds=seconds
            )


def _copy_bytes(item: Input, modality: Modality) -> int:
    """The memory that a raw input takes besides its bytes, for which those of the body count."""
    if isinstance(item, str):
        return sys.getsizeof(item)
    return len(item) if isinstance(item, LongText) and modality == "image" else 0


async def infer_while_connected(
    request: Request,
    state: AppState,
    resolution: Resolution,
    items: Sequence[Input],
    *,
    truncate: bool | None,
    input_type: str | None = None,
    blank: int = 0,
    seconds: float,
) -> InferenceResult:
    """Like `infer_items`, for a request whose body has been read.

    Args:
        request: The request; the inference is cancelled if its client disconnects.
        state: The state of the API.
        resolution: The versions to use.
        items: Raw inputs.
        truncate: Cut texts that are too long; None takes the encoder's setting.
        input_type: Selects a prompt of the encoder's model; None takes the encoder's own.
        blank: Number of further texts of the request, which are charged, but not embedded.
        seconds: Deadline of the result, in seconds from now.

    Raises:
        ClientDisconnectedError: If the client disconnects first.
        QueueFullError: If there is no room for the inputs and their result.
    """
    modality = encoder_of(resolution.source).modality
    size = sum(_copy_bytes(item, modality) for item in items)
    reserve(request, size + FLOAT32_BYTES * len(items) * result_width(resolution))
    inference = infer_items(
        state,
        resolution,
        items,
        truncate=truncate,
        input_type=input_type,
        blank=blank,
        seconds=seconds,
    )
    return await run_while_connected(request, inference)
