"""Raw inputs of a request: fetched, decoded, and sent through the pipeline to a worker."""

from functools import partial

from stitchwork.api.dependencies import AppState
from stitchwork.api.schemas.items import decode_items
from stitchwork.inference.resolve import Resolution, encoder_of
from stitchwork.inference.stitch import InferenceResult

BYTES_PER_VALUE = 4
"""Decoding a byte of base64 costs about a quarter of what a number of arithmetic does."""


def check_capacity(state: AppState, encoder: str) -> None:
    """Refuse a request before its body is read, if the encoder's queue has no room.

    Args:
        state: The state of the API.
        encoder: Id of the space whose encoder it needs.

    Raises:
        QueueFullError: If the queue of this space's encoder was full a moment ago.
    """
    space = state.pipeline.registry.spaces.last(encoder)
    if space and space.encoder:
        state.producer.check_room(space.encoder)


async def infer_items(
    state: AppState,
    resolution: Resolution,
    items: list[str | bytes],
    *,
    truncate: bool | None,
    seconds: float,
) -> InferenceResult:
    """Decode raw inputs, embed them on a worker and, where the resolution says so, go on.

    Args:
        state: The state of the API.
        resolution: What to do; its source has an encoder.
        items: Texts, images in base64 or by URL, or the bytes of files.
        truncate: Cut texts that are too long; None leaves it to the encoder's own setting.
        seconds: Seconds after which the result is of no use.

    Raises:
        InvalidInputError: If the source has no encoder, or an item is not of its modality.
        InputTooLargeError: If there are more than `max_items`.
    """
    modality = encoder_of(resolution.source).modality
    async with state.image_fetcher.by_value(items, modality) as values:
        size = sum(map(len, values)) // BYTES_PER_VALUE
        decode = partial(decode_items, values, modality, state.limits.max_items)
        decoded = await state.executor.finish(decode, size)
        return await state.pipeline.infer_items(
            resolution, decoded, truncate=truncate, seconds=seconds
        )
