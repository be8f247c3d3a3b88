"""The labelled sample of a head's evaluation: versions, true classes, and embeddings."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.api.schemas.report_requests import HeadEvaluationRequest
from stitchwork.errors import ConflictError, ErrorCode, InvalidInputError, UnavailableError
from stitchwork.inference.pipeline import Pipeline
from stitchwork.inference.resolve import Resolution, check_width, head_of
from stitchwork.resources import Floats, Head, Space

MAX_NAMED_LABELS: Final = 10
"""Unknown labels that an error names."""

Embedder = Callable[[Space], Awaitable[Floats]]
"""Embeds the items of a sample in a space."""


class LabelledSample(NamedTuple):
    """A labelled sample, embedded.

    Attributes:
        resolution: The versions that it is evaluated on; they include a head.
        classes: (n,) int64 true classes.
        rows: (n, d_X) float32 embeddings of the source.
        native: (n, d_Y) float32 embeddings of the head's own space, or the reason why there are
            none.
    """

    resolution: Resolution
    classes: NDArray[np.int64]
    rows: Floats
    native: Floats | str


def resolve_sample(
    pipeline: Pipeline, encoder: str, head: str, request: HeadEvaluationRequest
) -> tuple[Resolution, NDArray[np.int64]]:
    """The versions to evaluate, and the true classes of the sample; blocks for a round trip.

    Args:
        pipeline: Resolves the ids.
        encoder: Id of the space that the sample is in, or is embedded in.
        head: Id of the head.
        request: The request.

    Raises:
        InvalidInputError: If the head lacks one of the labels, or embeddings are of a wrong width.
        StitchworkError: What `Pipeline.resolve` raises.
    """
    resolution = pipeline.resolve(source=encoder, head=head, bridge=request.bridge)
    classes = class_indices(request.labels, head_of(resolution))
    if request.embeddings is not None:
        check_width(request.embeddings, resolution.source)
    if request.native_embeddings is not None:
        check_width(request.native_embeddings, resolution.destination, "/native_embeddings")
    return resolution, classes


def class_indices(labels: Sequence[str], head: Head) -> NDArray[np.int64]:
    """(n,) int64 indices of labels among the head's classes.

    Raises:
        InvalidInputError: If the head lacks some; the message names them.
    """
    indices = {label: i for i, label in enumerate(head.labels)}
    unknown = [label for label in dict.fromkeys(labels) if label not in indices]
    if unknown:
        names = ", ".join(repr(label[:80]) for label in unknown[:MAX_NAMED_LABELS])
        others = len(unknown) - MAX_NAMED_LABELS
        raise InvalidInputError(
            f"head {head.id} has no class {names}" + (f" and {others} more" if others > 0 else ""),
            pointer=f"/labels/{list(labels).index(unknown[0])}",
            code=ErrorCode.UNKNOWN_LABEL,
        )
    return np.array([indices[label] for label in labels], np.int64)


async def embed_sample(
    resolution: Resolution,
    classes: NDArray[np.int64],
    request: HeadEvaluationRequest,
    embed: Embedder,
) -> LabelledSample:
    """Embed a sample in its source and, at the same time, in the head's own space.

    Args:
        resolution: The versions to evaluate.
        classes: (n,) int64 true classes.
        request: The request, which has items or embeddings.
        embed: Embeds the items in a space.
    """
    task = None
    if resolution.source.version != resolution.destination.version:
        task = asyncio.ensure_future(_embed_native(resolution.destination, request, embed))
    try:
        rows = request.embeddings
        if rows is None:
            rows = await embed(resolution.source)
        native = rows if task is None else await task
    finally:
        if task:
            task.cancel()
    return LabelledSample(resolution, classes, rows, native)


async def _embed_native(
    space: Space, request: HeadEvaluationRequest, embed: Embedder
) -> Floats | str:
    """The sample in the head's own space, or the reason why it cannot be embedded there."""
    if request.native_embeddings is not None:
        native: Floats = request.native_embeddings
        return native
    if request.items is None:
        return f"send native_embeddings of space {space.id} to compare with"
    try:
        return await embed(space)
    except (InvalidInputError, ConflictError, UnavailableError) as error:
        # Native accuracy is only for comparison: without it the evaluation still succeeds.
        return f"the items were not embedded in space {space.id}: {error.message}"
