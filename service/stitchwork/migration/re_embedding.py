"""Rows that cannot be translated, embedded anew from their texts by the new model."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.offline_map import MapVersions
from stitchwork.migration.store import Id, Record
from stitchwork.migration.store_sample import TextReader

if TYPE_CHECKING:
    from stitchwork.client import Stitchwork

Embed: TypeAlias = Callable[[Sequence[Id], Sequence[Record]], list[NDArray[np.float32] | None]]
"""Embeds rows in the target space from their texts, by their ids and payloads; None for those
without a text."""


def embed_texts(client: "Stitchwork", versions: MapVersions, texts: TextReader) -> Embed:
    """A function that embeds the texts of rows through the service.

    Args:
        client: A client of the service.
        versions: Those of the map; the target space is embedded in.
        texts: Reads the texts of rows.

    Raises:
        InvalidInputError: If the target space has no encoder.
        ConflictError: When it is called, and the target space is of another version by now.
    """
    space = versions.target
    if not client.get("spaces", space).get("encoder"):
        raise InvalidInputError(
            f"expected an encoder of the space {space}, which would embed the rows that cannot be "
            "translated: it has none"
        )

    def embed(ids: Sequence[Id], records: Sequence[Record]) -> list[NDArray[np.float32] | None]:
        lines = texts(ids, records)
        available = [text for text in lines if text is not None]
        if not available:
            return [None] * len(ids)
        rows = iter(np.asarray(client.embed(space, available), np.float32))
        # Afterwards: what was embedded by another version is not written.
        version = client.get("spaces", space)["version"]
        if version != versions.target_version:
            raise ConflictError(
                f"the space {space} was replaced during the move, from version "
                f"{versions.target_version} to {version}: rows of both would be mixed"
            )
        return [None if text is None else next(rows) for text in lines]

    return embed
