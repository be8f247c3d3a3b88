"""The transform of bulk embedding: rows get the embeddings of their texts or images."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from stitchwork.errors import ConflictError, InvalidInputError, NotReadyError
from stitchwork.migration.block_transforms import EncoderVersions, Place, TransformIdentity
from stitchwork.migration.blocks import BlockSummary, Reject
from stitchwork.migration.item_readers import FieldItems, ItemReader, MissingItem
from stitchwork.migration.move_results import LEFT_OUT
from stitchwork.migration.re_embedding import embed_accepted
from stitchwork.migration.space_encoder import (
    LONG_TEXT,
    OpenEncoders,
    Probe,
    SpaceEncoder,
    read_max_tokens,
)
from stitchwork.migration.store import Batch, VectorStore
from stitchwork.resources import EncoderSpec, Item

if TYPE_CHECKING:
    from stitchwork.client import Stitchwork

ENCODER: Final = "encoder.json"
PROBE_ITEMS: Final = 4
"""Inputs that the service embeds too; another encoder already differs at the first one."""
PROBE_ROWS: Final = 64
"""Rows that are read at a time to find them."""
MAX_PROBE_REQUESTS: Final = 16
"""Attempts to find them, each with as many inputs."""
SAMPLE_TEXT: Final = "A sentence of a few words."
"""Takes their place where the service refuses the first texts, or there are none."""
EmbeddedItem: TypeAlias = tuple[Item, NDArray[np.float32]]
EmbedProbe: TypeAlias = Callable[[list[Item]], list[NDArray[np.float32] | str]]
"""Embeds inputs; the reason for those that the service refuses."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Embeds the inputs of the rows of blocks; rows without one, or a valid one, are left out.

    Attributes:
        encoder: The encoder of a space.
        reader: Reads the inputs of rows.
    """

    encoder: SpaceEncoder
    reader: ItemReader

    @classmethod
    def of(
        cls,
        client: "Stitchwork",
        space: str,
        source: VectorStore,
        reader: ItemReader,
        open_encoders: OpenEncoders,
        *,
        input_type: str | None = None,
        truncate: bool | None = None,
    ) -> Self:
        """The transform by the current version of a space; the service embeds the first inputs.

        Args:
            client: A client of the service.
            space: Id of the space.
            source: The store to read.
            reader: Reads the inputs of rows.
            open_encoders: Makes what loads encoders in a process.
            input_type: Selects a prompt of the model; None takes that of the anchors.
            truncate: Whether texts that are too long are truncated; None leaves it to the encoder.

        Raises:
            InvalidInputError: If the space has no encoder, or one of another modality.
            ConflictError: If the space is not ready, or is replaced meanwhile.
            InvalidInputError: If the service embeds none of the first images.
        """
        record = client.get("spaces", space)
        if not record.get("encoder"):
            raise InvalidInputError(f"expected an encoder of the space {space}: it has none")
        try:
            spec: EncoderSpec = TypeAdapter(EncoderSpec).validate_python(record["encoder"])
        except ValidationError as error:
            raise InvalidInputError(
                f"the encoder of the space {space} is one of another release: {error}"
            ) from error
        if "dim" not in record:
            raise NotReadyError(f"the space {space} is not ready: its registration is not complete")
        if reader.modality != spec.modality:
            raise InvalidInputError(
                f"{source.name}: expected {spec.modality}s, which {space} embeds, got "
                f"{reader.modality}s"
            )
        dimension = int(record["dim"])

        def embed(items: Any, truncate: bool | None = truncate) -> list[NDArray[np.float32] | str]:
            return embed_accepted(client, space, items, input_type=input_type, truncate=truncate)

        pairs = find_probe(source, reader, embed)
        rows = np.array([row for _, row in pairs], np.float32).reshape(-1, dimension)
        max_tokens = None
        if reader.modality == "text":
            (result,) = embed([LONG_TEXT], truncate=False)
            max_tokens = read_max_tokens(result) if isinstance(result, str) else None
        probe = Probe(tuple(item for item, _ in pairs), rows, max_tokens)
        if client.get("spaces", space)["version"] != record["version"]:
            raise ConflictError(f"the space {space} was replaced meanwhile: run the command again")
        encoder = SpaceEncoder(
            space=space,
            version=record["version"],
            spec=spec,
            dtype=record.get("dtype") or "float32",
            dimension=dimension,
            files_digest=record.get("files_digest"),
            probe=probe,
            open_encoders=open_encoders,
            input_type=input_type,
            truncate=truncate,
        )
        return cls(encoder, reader)

    @property
    def versions(self) -> EncoderVersions:
        """The space and its version."""
        return EncoderVersions(self.encoder.space, self.encoder.version)

    @property
    def width(self) -> int:
        """The width of the space."""
        return self.encoder.dimension

    @property
    def place(self) -> Place:
        """Processes that load the model."""
        return "actors"

    @property
    def requires_payload(self) -> bool:
        """The inputs may be in it."""
        return True

    def identity(self) -> TransformIdentity:
        """Where the inputs come from, and what is done with them."""
        encoder, origin = self.encoder, self.reader.origin()
        if encoder.input_type is not None:
            origin += f", of the type {encoder.input_type}"
        if encoder.truncate is not None:
            origin += ", truncated" if encoder.truncate else ", not truncated"
        return TransformIdentity("keep", LEFT_OUT, origin)

    def check(self, source: VectorStore) -> None:
        """Check that the rows of a store have the field of the inputs.

        Raises:
            InvalidInputError: If they have not.
        """
        if isinstance(self.reader, FieldItems):
            FieldItems.choose(source, self.reader.modality, self.reader.field)

    def files(self) -> Mapping[str, bytes]:
        """The versions, by which shards are of one kind."""
        return {ENCODER: orjson.dumps(self.versions._asdict(), option=orjson.OPT_INDENT_2)}

    def pinned(self, files: Mapping[str, bytes]) -> Self:
        """The same of the version of a file."""
        versions = EncoderVersions(**orjson.loads(files[ENCODER]))
        if versions == self.versions:
            # The same object, which may have loaded the model.
            return self
        return replace(self, encoder=replace(self.encoder, **versions._asdict()))

    def __call__(self, batch: Batch) -> tuple[Batch, BlockSummary]:
        """Embed the inputs of a block.

        Raises:
            ConflictError: If the encoder in this process is not that of the space.
            StitchworkError: If it cannot be loaded or run.
        """
        rows = [row for row in range(len(batch)) if row not in batch.faults]
        results, truncated = self.encoder.embed(rows, partial(self.reader.read, batch))
        reasons = {row: result for row, result in results.items() if isinstance(result, str)}
        reasons |= batch.faults
        embedded = [row for row in rows if row not in reasons]
        vectors = np.zeros((len(embedded), self.width), np.float32)
        for i, row in enumerate(embedded):
            vectors[i] = results[row]
        chosen = batch if len(embedded) == len(batch) else batch.select(np.array(embedded, np.intp))
        rejects = [Reject(batch.ids[row], reasons[row], False) for row in sorted(reasons)]
        summary = BlockSummary(batch.cursor, len(batch), rejects, truncated=truncated)
        return replace(chosen, vectors=vectors, faults={}), summary


def find_probe(source: VectorStore, reader: ItemReader, embed: EmbedProbe) -> list[EmbeddedItem]:
    """A few of the first inputs of a store that the service accepts, with their embeddings.

    Args:
        source: The store.
        reader: Reads the inputs of rows.
        embed: Embeds inputs; the reason for those that are refused.

    Raises:
        InvalidInputError: If the service embeds none of the first images.
    """
    pairs, inputs = list[EmbeddedItem](), _inputs(source, reader)
    remaining = MAX_PROBE_REQUESTS
    while len(pairs) < PROBE_ITEMS and remaining and (items := list(islice(inputs, PROBE_ITEMS))):
        remaining -= 1
        results = zip(items, embed(items), strict=True)
        pairs += [(item, row) for item, row in results if not isinstance(row, str)]
    if not pairs and reader.modality == "text":
        (row,) = embed([SAMPLE_TEXT])
        if not isinstance(row, str):
            return [(SAMPLE_TEXT, row)]
    if not pairs:
        raise InvalidInputError(
            f"{source.name}: expected {reader.modality}s that the service embeds, by which the "
            "encoder on this machine is checked, got none among the first ones"
        )
    return pairs[:PROBE_ITEMS]


def _inputs(source: VectorStore, reader: ItemReader) -> Iterator[Item]:
    """The inputs of the rows that have one."""
    for batch in source.scan(PROBE_ROWS):
        rows = [row for row in range(len(batch)) if row not in batch.faults]
        for item in (reader.read(batch, [row])[0] for row in rows):
            if not isinstance(item, MissingItem):
                yield item
