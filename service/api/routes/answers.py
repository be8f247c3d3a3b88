"""What answers of inference say about the versions they used."""

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.records import Floats, Head, Space


def named(record: Space | Head) -> dict[str, str]:
    """A record by id and version."""
    return {"id": record.id, "version": record.version}


def used(stale: bool, **records: Space | Head) -> dict[str, str]:
    """Headers that name what was used, whatever the format of the body."""
    headers = {f"Stitchwork-{role.title()}": f"{r.id}@{r.version}" for role, r in records.items()}
    return {**headers, "Stitchwork-Stale": "true"} if stale else headers


def undefined(defined: NDArray[np.bool_]) -> list[int]:
    """Which rows have no direction in their space, and so stand at the mean of the other."""
    return np.flatnonzero(~defined).tolist()


def width(embeddings: Floats, space: Space, pointer: str = "/embeddings") -> None:
    """Refuse embeddings that cannot be of this space.

    Raises:
        InvalidInput: If they have another width.
    """
    if embeddings.shape[1] != space.dim:
        raise InvalidInput(
            f"space {space.id} is {space.dim} wide, got embeddings of {embeddings.shape[1]}",
            pointer=pointer,
            code="wrong-width",
        )
