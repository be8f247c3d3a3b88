"""Blank texts among the inputs of a request, which nothing can be embedded of."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
from starlette.requests import Request

from stitchwork.api.content.validation import check_count
from stitchwork.api.dependencies import AppState
from stitchwork.api.direct_routes import reserve
from stitchwork.api.raw_inputs import charge, infer_while_connected
from stitchwork.api.row_inference import FLOAT32_BYTES, result_width
from stitchwork.errors import InvalidInputError
from stitchwork.inference.model_paths import hide_model_path
from stitchwork.inference.resolve import Resolution, encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Input, LongText, TextEncoder
from stitchwork.resources.prompts import select_prompt

MESSAGE: Final = "expected a text that is not empty"
ITEMS: Final = "/items/"


def present_indices(texts: Sequence[Input]) -> list[int]:
    """The indices of the texts that are not blank."""
    return [i for i, text in enumerate(texts) if not _is_blank(text)]


def _is_blank(text: Input) -> bool:
    if isinstance(text, LongText):
        return text.is_blank
    return isinstance(text, str) and not text.strip()


@contextmanager
def original_indices(indices: Sequence[int]) -> Generator[None, None, None]:
    """A context in which an error about one of the inputs names its index in the request.

    Args:
        indices: The index in the request of each input.
    """
    try:
        yield
    except InvalidInputError as error:
        index = (error.pointer or "").removeprefix(ITEMS)
        if index != error.pointer and index.isdigit():
            error.pointer = f"{ITEMS}{indices[int(index)]}"
        raise


async def charge_blank(
    state: AppState, resolution: Resolution, count: int, input_type: str | None
) -> None:
    """Check and charge a request of which no text is embedded, as others are.

    Args:
        state: The state of the API.
        resolution: The versions to use.
        count: Number of its texts.
        input_type: Its input type.

    Raises:
        InvalidInputError: If no prompt of the model is for this input type.
        InputTooLargeError: If there are more texts than a rate of the key ever allows.
        RateLimitError: If a rate of the key is used up.
    """
    encoder = encoder_of(resolution.source)
    if input_type is not None and isinstance(encoder, TextEncoder):
        with hide_model_path(resolution.source):
            select_prompt(encoder.model, encoder.prompts or {}, input_type)
    await charge(state, (), count)


async def infer_present(
    request: Request,
    state: AppState,
    resolution: Resolution,
    items: Sequence[Input],
    *,
    skips_blank: bool,
    **options: Any,
) -> tuple[InferenceResult, frozenset[int]]:
    """The result of raw inputs, without blank texts if the request says so.

    Args:
        request: The request.
        state: The state of the API.
        resolution: The versions to use.
        items: Raw inputs.
        skips_blank: Whether texts that are blank are left out; else they are refused.
        options: What `infer_while_connected` takes.

    Returns:
        A result with a row for each input, zeros for a blank one; and the indices of these.

    Raises:
        InputTooLargeError: If there are more than `max_items`, blank ones included.
        StitchworkError: What `infer_while_connected` raises.
    """
    check_count(len(items), state.limits.max_items, "items", "max_items", "/items")
    count, indices = len(items), list(range(len(items)))
    if skips_blank and encoder_of(resolution.source).modality == "text":
        indices = present_indices(items)
    defined, covered = np.ones(count, np.bool_), np.ones(count, np.bool_)
    if not indices:
        await charge_blank(state, resolution, count, options["input_type"])
        # One row for all, none of which is in the response.
        rows = np.broadcast_to(np.float32(0), (count, result_width(resolution)))
        return InferenceResult(resolution, rows, defined, covered), frozenset(range(count))
    blank = count - len(indices)
    reserve(request, FLOAT32_BYTES * blank * result_width(resolution))
    with original_indices(indices):
        result = await infer_while_connected(
            request, state, resolution, [items[i] for i in indices], blank=blank, **options
        )
    if len(indices) == count:
        return result, frozenset()
    rows = np.zeros((count, *result.rows.shape[1:]), result.rows.dtype)
    rows[indices], defined[indices], covered[indices] = result.rows, result.defined, result.covered
    truncated = tuple(indices[i] for i in result.truncated)
    spread = replace(result, rows=rows, defined=defined, covered=covered, truncated=truncated)
    return spread, frozenset(range(count)) - frozenset(indices)
