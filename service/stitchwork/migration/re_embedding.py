"""Rows that cannot be translated, embedded anew from their texts by the new model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.client.resource_operations import Items
from stitchwork.client.service_errors import ServiceError
from stitchwork.errors import ConflictError, InvalidInputError, StitchworkError
from stitchwork.migration.offline_map import MapVersions
from stitchwork.migration.row_texts import TextReader
from stitchwork.migration.store import Id, Record

if TYPE_CHECKING:
    from stitchwork.client import Stitchwork

NO_TEXT: Final = "no text to embed"
REFUSALS: Final = (400, 413, 422)
"""Statuses of requests that are refused whenever they are sent."""

Embed: TypeAlias = Callable[[Sequence[Id], Sequence[Record]], list[NDArray[np.float32] | str]]
"""Embeds rows in the target space from their texts, by their ids and payloads; the reason for those
that have no text, or one that cannot be embedded."""


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
    ) -> list[NDArray[np.float32] | str]:
        """Embed rows from their texts.

        Returns:
            The embedding of each row, or the reason that it has none.

        Raises:
            ConflictError: If the target space is of another version by now.
        """
        space, lines = self.versions.target, self.texts(ids, records)
        available = [text for text in lines if text is not None]
        if not available:
            return [NO_TEXT] * len(ids)
        rows = embed_accepted(self.client, space, available)
        # Afterwards: what was embedded by another version is not written.
        version = self.client.get("spaces", space)["version"]
        if version != self.versions.target_version:
            raise ConflictError(
                f"the space {space} was replaced during the move, from version "
                f"{self.versions.target_version} to {version}: rows of both would be mixed"
            )
        results = (f"its text was refused: {row}" if isinstance(row, str) else row for row in rows)
        return [NO_TEXT if text is None else next(results) for text in lines]


def embed_accepted(
    client: "Stitchwork", space: str, items: Items, **options: Any
) -> list[NDArray[np.float32] | str]:
    """Embeddings of all inputs but those that the service refuses, which have the reason.

    Args:
        client: A client of the service.
        space: Id of the space.
        items: Texts, or image files.
        options: Further arguments of `Stitchwork.embed`.
    """
    results: list[NDArray[np.float32] | str] = [""] * len(items)
    pending = [(0, len(items))]
    while pending:
        start, stop = pending.pop()
        if start == stop:
            continue
        try:
            rows = client.embed(space, items[start:stop], **options)
            results[start:stop] = list(np.asarray(rows, np.float32))
        except ServiceError as error:
            item = rejected_item(error, stop - start) if error.status in REFUSALS else None
            if item is None:
                raise
            results[start + item] = error.message
            # Those before it first, where none is refused as a rule.
            pending += [(start + item + 1, stop), (start, start + item)]
    return results


def rejected_item(error: StitchworkError, count: int) -> int | None:
    """The index of the input that several are refused for; None if it is not one of them.

    Args:
        error: The error, whose pointer may be `/items/{index}`.
        count: Number of the inputs.
    """
    parts = (error.pointer or "").split("/")
    if parts[:2] == ["", "items"] and len(parts) > 2 and parts[2].isdecimal():
        item = int(parts[2])
        return item if item < count else None
    return None
