"""What is done with the rows of a store, a block at a time: they are translated, or embedded."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, Self, TypeAlias

from stitchwork.migration.blocks import BlockSummary
from stitchwork.migration.offline_map import MapVersions
from stitchwork.migration.store import Batch, VectorStore

Place: TypeAlias = Literal["caller", "tasks", "actors"]
"""Where blocks can be transformed: in the process that began the move alone, as it calls the
service; in any process; or in any process, each of which first loads a model."""


class EncoderVersions(NamedTuple):
    """What embeddings are of.

    Attributes:
        space: Id of the space whose encoder embeds.
        version: Its version.
    """

    space: str
    version: str


Versions: TypeAlias = MapVersions | EncoderVersions


class TransformIdentity(NamedTuple):
    """What a transform does, as the checkpoint of a move has it; another one does not resume it.

    Attributes:
        uncovered: What happens to rows that the anchors do not cover: `keep` or `reject`.
        rejects: What happens to rows that cannot be transformed: `left out` or `embedded anew`.
        texts: Where inputs of the encoder come from; empty if there are none.
    """

    uncovered: str
    rejects: str
    texts: str


class BlockTransform(Protocol):
    """Makes the rows to write of those of a block."""

    @property
    def versions(self) -> Versions:
        """What the rows that it makes are of."""

    @property
    def width(self) -> int:
        """The width of the vectors that it makes."""

    @property
    def place(self) -> Place:
        """Where it can be applied."""

    @property
    def requires_payload(self) -> bool:
        """Whether it reads the payloads of rows."""

    def identity(self) -> TransformIdentity:
        """What it does with which rows."""

    def check(self, source: VectorStore) -> None:
        """Check that it suits the rows of a store, as far as is known before they are read.

        Raises:
            InvalidInputError: If it does not.
        """

    def files(self) -> Mapping[str, bytes]:
        """What a move pins when it begins: files by their names."""

    def pinned(self, files: Mapping[str, bytes]) -> Self:
        """The same with files of an earlier call of `files`."""

    def __call__(self, batch: Batch) -> tuple[Batch, BlockSummary]:
        """The rows of a block to write, and its summary."""
