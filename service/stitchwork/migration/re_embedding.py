"""Rows that cannot be translated, embedded anew from their texts by the new model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.offline_map import MapVersions
from stitchwork.migration.row_texts import TextReader
from stitchwork.migration.store import Id, Record

if TYPE_CHECKING:
    from stitchwork.client import Stitchwork

Embed: TypeAlias = Callable[[Sequence[Id], Sequence[Record]], list[NDArray[np.float32] | None]]
"""Embeds rows in the target space from their texts, by their ids and payloads; None for those
without a text."""


@dataclass(frozen=True, slots=True)
class TextEmbedder:
    """Embeds the texts of rows through the service.

    Attributes:
        client: A client of the service.
        versions: Those of the map; the target space is embedded in.
        texts: Reads the texts of rows.

    Raises:
        InvalidInputError: If the target space has no encoder.
    """

    client: "Stitchwork"
    versions: MapVersions
    texts: TextReader

    def __post_init__(self) -> None:
        space = self.versions.target
        if not self.client.get("spaces", space).get("encoder"):
            raise InvalidInputError(
                f"expected an encoder of the space {space}, which would embed the rows that cannot "
                "be translated: it has none"
            )

    def __call__(
        self, ids: Sequence[Id], records: Sequence[Record]
    ) -> list[NDArray[np.float32] | None]:
        """Embed rows from their texts.

        Raises:
            ConflictError: If the target space is of another version by now.
        """
        space, lines = self.versions.target, self.texts(ids, records)
        available = [text for text in lines if text is not None]
        if not available:
            return [None] * len(ids)
        rows = iter(np.asarray(self.client.embed(space, available), np.float32))
        # Afterwards: what was embedded by another version is not written.
        version = self.client.get("spaces", space)["version"]
        if version != self.versions.target_version:
            raise ConflictError(
                f"the space {space} was replaced during the move, from version "
                f"{self.versions.target_version} to {version}: rows of both would be mixed"
            )
        return [None if text is None else next(rows) for text in lines]
