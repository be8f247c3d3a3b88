"""What answers of inference say about the versions they used."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.resources import Floats, Head, Space


def used(stale: bool, **records: Space | Head) -> dict[str, str]:
    """Headers that name what was used, whatever the format of the body."""
    headers = {f"Stitchwork-{role.title()}": f"{r.id}@{r.version}" for role, r in records.items()}
    return {**headers, "Stitchwork-Stale": "true"} if stale else headers


def undefined(defined: NDArray[np.bool_]) -> list[int]:
    """Which rows have no direction in their space, and so stand at the mean of the other."""
    return np.flatnonzero(~defined).tolist()


class Outside(NamedTuple):
    """Which inputs lie outside what the anchors of their space cover.

    Attributes:
        rows: Their indices.
        warnings: One sentence if there are any, otherwise none.
        headers: What headers say of them, whatever the format of the body.
    """

    rows: list[int]
    warnings: list[str]
    headers: dict[str, str]


def outside(covered: NDArray[np.bool_], space: Space) -> Outside:
    """What is said of inputs that lie outside what the anchors of this space cover."""
    rows = np.flatnonzero(~covered).tolist()
    if not rows:
        return Outside([], [], {})
    told = (
        f"{len(rows)} of {len(covered)} inputs lie outside what the anchors of space {space.id} "
        "cover (of its own anchors, 1 in 100 does): translations of them are not to be trusted"
    )
    return Outside(rows, [told], {"Stitchwork-Uncovered": str(len(rows))})


def width(embeddings: Floats, space: Space, pointer: str = "/embeddings") -> None:
    """Refuse embeddings that cannot be of this space.

    Raises:
        InvalidInputError: If they have another width.
    """
    if embeddings.shape[1] != space.dim:
        raise InvalidInputError(
            f"space {space.id} is {space.dim} wide, got embeddings of {embeddings.shape[1]}",
            pointer=pointer,
            code=ErrorCode.WRONG_WIDTH,
        )
