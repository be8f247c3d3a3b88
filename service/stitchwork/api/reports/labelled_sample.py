"""The labelled sample of a head's evaluation: versions, what is true, and embeddings."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.api.problem_details import replace_pointer
from stitchwork.api.schemas.report_requests import HeadEvaluationRequest
from stitchwork.errors import ConflictError, ErrorCode, InvalidInputError, UnavailableError
from stitchwork.geometry.classifier import MULTI_LABEL, REGRESSION
from stitchwork.inference.pipeline import Pipeline
from stitchwork.inference.resolve import Resolution, check_width, head_of
from stitchwork.resources import Floats, Head, Input, Label, Space, label_text, pack_items
from stitchwork.resources.training_inputs import Digests, packed_digests, row_digests

MAX_NAMED_LABELS: Final = 10
"""Unknown labels that an error names."""

Embedder = Callable[[Space], Awaitable[Floats]]
"""Embeds the items of a sample in a space."""
Targets = NDArray[Any]
"""(n,) int64 classes; of a multi-label head (n, c) bool, of a regression (n, c) float64 values."""


class LabelledSample(NamedTuple):
    """A labelled sample, embedded.

    Attributes:
        resolution: The versions that it is evaluated on; they include a head.
        targets: What is true; see `Targets`.
        rows: (n, d_X) float32 embeddings of the source.
        native: (n, d_Y) float32 embeddings of the head's own space, or the reason why there are
            none.
        items: The raw inputs, if it has any.
    """

    resolution: Resolution
    targets: Targets
    rows: Floats
    native: Floats | str
    items: Sequence[Input] | None

    def digests(self) -> Digests:
        """(n, 0 to 2) digests of the items and of the rows in the head's own space, if any."""
        columns = [np.zeros((len(self.targets), 0), np.int64)]
        if self.items is not None:
            packed = pack_items(self.items)
            columns.append(packed_digests(packed["blob"], packed["ends"])[:, None])
        if not isinstance(self.native, str):
            columns.append(row_digests(self.native)[:, None])
        return np.concatenate(columns, axis=1)


def resolve_sample(
    pipeline: Pipeline, encoder: str, head: str, request: HeadEvaluationRequest
) -> tuple[Resolution, Targets]:
    """The versions to evaluate, and what is true of the sample; blocks for a round trip.

    Args:
        pipeline: Resolves the ids.
        encoder: Id of the space that the sample is in, or is embedded in.
        head: Id of the head.
        request: The request.

    Raises:
        InvalidInputError: If the labels are not those of the head, or embeddings are of a wrong
            width.
        StitchworkError: What `Pipeline.resolve` raises.
    """
    resolution = pipeline.resolve(source=encoder, head=head, bridge=request.bridge)
    targets = read_targets(request.labels, head_of(resolution))
    if request.embeddings is not None:
        check_width(request.embeddings, resolution.source)
    if request.native_embeddings is not None:
        check_width(
            request.native_embeddings,
            resolution.destination,
            "/native_embeddings",
            name="native_embeddings",
        )
    return resolution, targets


def read_targets(labels: Sequence[Any], head: Head) -> Targets:
    """The truth about each input, in the order of the head's labels.

    Args:
        labels: A label for each input; for a multi-label head the list of its labels; for a
            regression its value, or a list of its values.
        head: The head.

    Raises:
        InvalidInputError: If these are not of the head's kind, or the head lacks some labels.
    """
    is_list = isinstance(labels[0], list)
    if head.problem_type == REGRESSION:
        return _values(labels, head)
    if is_list != (head.problem_type == MULTI_LABEL):
        expected = "a list of labels" if not is_list else "one label"
        raise InvalidInputError(
            f"expected {expected} for each input, as head {head.id} is of {head.problem_type}",
            pointer="/labels/0",
        )
    if not is_list:
        return class_indices(labels, head)
    targets = np.zeros((len(labels), len(head.labels)), np.bool_)
    for i, row in enumerate(labels):
        with replace_pointer("/labels", f"/labels/{i}"):
            targets[i, class_indices(row, head)] = True
    return targets


def _values(labels: Sequence[Any], head: Head) -> Targets:
    rows = [label if isinstance(label, list) else [label] for label in labels]
    for i, row in enumerate(rows):
        if not all(type(value) in (float, int) for value in row):
            raise InvalidInputError(
                f"expected numbers, as head {head.id} is a regression", pointer=f"/labels/{i}"
            )
        if len(row) != len(head.labels):
            raise InvalidInputError(
                f"expected {len(head.labels)} numbers, as head {head.id} has values, got "
                f"{len(row)}",
                pointer=f"/labels/{i}",
            )
    values = np.array(rows, np.float64)
    if not np.isfinite(values).all():
        i = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise InvalidInputError("expected finite numbers", pointer=f"/labels/{i}")
    return values


def class_indices(labels: Sequence[Label], head: Head) -> NDArray[np.int64]:
    """(n,) int64 indices of labels among the head's classes; 3 and "3" are the same label.

    Raises:
        InvalidInputError: If the head lacks some; the message names them.
    """
    indices = {label_text(label): i for i, label in enumerate(head.labels)}
    names = [label_text(label) for label in labels]
    unknown = [name for name in dict.fromkeys(names) if name not in indices]
    if unknown:
        listed = ", ".join(repr(name[:80]) for name in unknown[:MAX_NAMED_LABELS])
        others = len(unknown) - MAX_NAMED_LABELS
        raise InvalidInputError(
            f"head {head.id} has no class {listed}" + (f" and {others} more" if others > 0 else ""),
            pointer=f"/labels/{names.index(unknown[0])}",
            code=ErrorCode.UNKNOWN_LABEL,
        )
    return np.array([indices[name] for name in names], np.int64)


async def embed_sample(
    resolution: Resolution,
    targets: Targets,
    request: HeadEvaluationRequest,
    embed: Embedder,
) -> LabelledSample:
    """Embed a sample in its source and, at the same time, in the head's own space.

    Args:
        resolution: The versions to evaluate.
        targets: What is true of it.
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
    return LabelledSample(resolution, targets, rows, native, request.items)


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
