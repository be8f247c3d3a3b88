"""Embeddings that a request cuts to their first dimensions."""

from dataclasses import replace

import numpy as np

from stitchwork.errors import InvalidInputError
from stitchwork.inference.model_paths import hide_model_path
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Space, TransformersSpec


def check_dimensions(space: Space, dimensions: int | None) -> None:
    """Refuse a number of dimensions that the embeddings of a space may not be cut to.

    Args:
        space: The space of the embeddings.
        dimensions: The number; None for all of them.

    Raises:
        InvalidInputError: If the space has fewer, or its encoder is not made for it.
    """
    if dimensions in (None, space.dim):
        return
    if dimensions > space.dim or not isinstance(space.encoder, TransformersSpec):
        at_most = "at most " if isinstance(space.encoder, TransformersSpec) else ""
        raise InvalidInputError(
            f"expected {at_most}{space.dim} dimensions, as space {space.id} has, or none, got "
            f"{dimensions}",
            pointer="/dimensions",
        )
    with hide_model_path(space):
        space.encoder.check_dimensions(dimensions)


def cut_dimensions(result: InferenceResult, dimensions: int | None) -> InferenceResult:
    """A result whose embeddings are cut to a number of dimensions that `check_dimensions` allows.

    Embeddings of a space of unit length have unit length again.
    """
    space = result.resolution.destination
    if dimensions in (None, space.dim):
        return result
    rows = result.rows[:, :dimensions]
    encoder = space.encoder
    if space.unit or (isinstance(encoder, TransformersSpec) and encoder.normalize):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(norms > 0, norms, 1)
    return replace(result, rows=rows)
