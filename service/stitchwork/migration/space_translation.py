"""The transform of moves between spaces: rows are translated, or embedded anew."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self

from stitchwork.errors import InvalidInputError
from stitchwork.migration.block_transforms import Place, TransformIdentity
from stitchwork.migration.blocks import BlockSummary, Uncovered, translate_block
from stitchwork.migration.move_results import EMBEDDED_ANEW, LEFT_OUT
from stitchwork.migration.offline_map import MapVersions, OfflineMap
from stitchwork.migration.re_embedding import Embed
from stitchwork.migration.row_texts import NoTexts, TextReader
from stitchwork.migration.store import Batch, VectorStore

MAP: Final = "map.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class SpaceTranslation:
    """Translates the rows of blocks.

    Attributes:
        offline_map: The map, of the current versions of both spaces.
        uncovered: What happens to rows that the anchors do not cover.
        re_embed: Embeds rows that cannot be translated; None leaves them out.
        texts: Reads their texts.
    """

    offline_map: OfflineMap
    uncovered: Uncovered = "keep"
    re_embed: Embed | None = None
    texts: TextReader = field(default_factory=NoTexts)

    @property
    def versions(self) -> MapVersions:
        """Those of the map."""
        return self.offline_map.versions

    @property
    def width(self) -> int:
        """The width of the target space."""
        return self.offline_map.target_width

    @property
    def place(self) -> Place:
        """Any process, unless rows are embedded through the service."""
        return "tasks" if self.re_embed is None else "caller"

    @property
    def requires_payload(self) -> bool:
        """Whether there may be texts in it."""
        return self.re_embed is not None

    def identity(self) -> TransformIdentity:
        """What happens to which rows, and where texts come from."""
        rejects = LEFT_OUT if self.re_embed is None else EMBEDDED_ANEW
        return TransformIdentity(self.uncovered, rejects, self.texts.origin())

    def check(self, source: VectorStore) -> None:
        """Check the field of the texts and, if there are rows, the width of the vectors.

        Raises:
            InvalidInputError: If the vectors have another width than the source space, it is not
                clear which column has them, or no row can have a text.
        """
        self.texts.check(source)
        if not source.count():
            return
        width, expected = source.dimension(), self.offline_map.source_width
        if width != expected:
            raise InvalidInputError(
                f"{source.name}: expected vectors of {expected} numbers, which the space "
                f"{self.versions.source} has, got {width}"
            )

    def files(self) -> Mapping[str, bytes]:
        """The file of the map: one of the same versions may be rounded differently."""
        return {MAP: self.offline_map.data}

    def pinned(self, files: Mapping[str, bytes]) -> Self:
        """The same with the map of a file."""
        return replace(self, offline_map=OfflineMap(files[MAP]))

    def __call__(self, batch: Batch) -> tuple[Batch, BlockSummary]:
        """Translate the rows of a block.

        Raises:
            ConflictError: If rows are embedded with another width than the target space.
        """
        return translate_block(batch, self.offline_map, self.uncovered, self.re_embed)
