"""The encoder of a space in this process, proven to compute what the service's workers compute."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import ConflictError, ErrorCode, InvalidInputError, StitchworkError
from stitchwork.migration.item_readers import ItemOrMissing, MissingItem
from stitchwork.migration.overlap import read_ahead
from stitchwork.migration.re_embedding import rejected_item
from stitchwork.resources import EncoderSpec, Item, Modality

if TYPE_CHECKING:
    # Only a process that embeds needs torch.
    from stitchwork.models.encoder import PreparedInputs
    from stitchwork.models.encoder_cache import EncoderCache
    from stitchwork.models.loaded_encoder import LoadedEncoder

CHUNK_ITEMS: Final[dict[Modality, int]] = {"text": 512, "image": 64}
"""Inputs that are prepared at a time, while those before are computed."""
MAX_DIFFERENCES: Final = {"float32": 1e-3, "bfloat16": 4e-2, "float16": 4e-2}
"""Largest difference of a row from the service's, relative to its norm, by the data type. Rounding
causes 1e-6 in float32, a compiled model up to 1e-4 and, in the others, 1.4e-2."""
SMALLEST_LENGTH: Final = 1e-12
LONG_TEXT: Final = "word " * 60_000
"""A text that every encoder refuses unless it truncates."""
MAX_TOKENS: Final = re.compile(r"expected at most (\d+) tokens")
NOT_FINITE: Final = "its embedding has a number that is not finite"

ReadItems: TypeAlias = Callable[[Sequence[int]], list[ItemOrMissing]]
"""Returns the inputs of rows, by their indices."""
OpenEncoders: TypeAlias = "Callable[[], tuple[EncoderCache, int]]"
"""Makes what loads encoders in a process, and the number of inputs of a batch."""


class Probe(NamedTuple):
    """Inputs whose rows the service has computed.

    Attributes:
        items: The inputs.
        rows: (n, d) float32.
        max_tokens: Tokens of a text that the service accepts; None for images, or if it is not
            known.
    """

    items: tuple[Item, ...]
    rows: NDArray[np.float32]
    max_tokens: int | None = None


class EmbeddedItems(NamedTuple):
    """The embeddings of the inputs of some rows.

    Attributes:
        results: By row, its embedding (d,) float32, or the reason that it has none.
        truncated: How many texts were truncated.
    """

    results: dict[int, NDArray[np.float32] | str]
    truncated: int


@dataclass(frozen=True, eq=False)
class SpaceEncoder:
    """The encoder of a registered space, which each process that uses it loads once.

    Attributes:
        space: Id of the space.
        version: Its version.
        spec: The encoder, with what is in force.
        dtype: The data type that workers compute it in.
        dimension: The width of its rows.
        files_digest: Digest of the files that it was registered with.
        input_type: Selects a prompt of the model; None takes that of the spec.
        truncate: Whether texts that are too long are truncated; None leaves it to the spec.
        probe: Inputs whose rows a process must compute as the service did.
        open_encoders: Makes what loads the encoder.
    """

    space: str
    version: str
    spec: EncoderSpec
    dtype: str
    dimension: int
    files_digest: str | None
    input_type: str | None
    truncate: bool | None
    probe: Probe
    open_encoders: OpenEncoders

    def embed(self, rows: Sequence[int], read: ReadItems) -> EmbeddedItems:
        """Embed the inputs of rows, some at a time.

        Args:
            rows: Indices of the rows.
            read: Returns the inputs of rows.

        Raises:
            ConflictError: If the encoder in this process is not that of the space.
            StitchworkError: If it cannot be loaded or run.
        """
        loaded, max_items = _load(self)
        return self._embed(loaded, max_items, rows, read)

    def _embed(
        self, loaded: "LoadedEncoder", max_items: int, rows: Sequence[int], read: ReadItems
    ) -> EmbeddedItems:
        results, truncated = dict[int, NDArray[np.float32] | str](), 0
        with read_ahead(self._prepare(loaded, rows, read, results)) as chunks:
            for accepted, prepared in chunks:
                truncated += len(prepared.truncated)
                self._compute(loaded, max_items, accepted, prepared, results)
        return EmbeddedItems(results, truncated)

    def _prepare(
        self,
        loaded: "LoadedEncoder",
        rows: Sequence[int],
        read: ReadItems,
        results: dict[int, NDArray[np.float32] | str],
    ) -> "Iterator[tuple[list[int], PreparedInputs]]":
        """Chunks of rows whose inputs the encoder accepts; the others get a reason."""
        size = CHUNK_ITEMS[self.spec.modality]
        for start in range(0, len(rows), size):
            chunk, inputs = list[int](), list[Item]()
            part = rows[start : start + size]
            for row, item in zip(part, read(part), strict=True):
                if isinstance(item, MissingItem):
                    results[row] = item.reason
                else:
                    chunk.append(row)
                    inputs.append(item)
            while inputs:
                try:
                    prepared = loaded.encoder.prepare(
                        inputs, truncate=self.truncate, input_type=self.input_type
                    )
                except InvalidInputError as error:
                    place = rejected_item(error, len(inputs))
                    if place is None:
                        raise
                    results[chunk.pop(place)] = error.message
                    del inputs[place]
                else:
                    yield chunk, prepared
                    break

    def _compute(
        self,
        loaded: "LoadedEncoder",
        max_items: int,
        rows: list[int],
        prepared: "PreparedInputs",
        results: dict[int, NDArray[np.float32] | str],
    ) -> None:
        """Embed prepared inputs; one that alone does not fit the device gets a reason."""
        while rows:
            try:
                vectors = loaded.batcher.embed(prepared, max_items).cpu().numpy()
            except StitchworkError as error:
                place = rejected_item(error, len(rows))
                if place is None or error.code != ErrorCode.OUT_OF_MEMORY:
                    raise
                results[rows[place]] = error.message
                inputs = [tensor for i, tensor in enumerate(prepared.inputs) if i != place]
                rows, prepared = rows[:place] + rows[place + 1 :], type(prepared)(inputs)
            else:
                finite = np.isfinite(vectors).all(axis=1)
                for row, vector, is_finite in zip(rows, vectors, finite, strict=True):
                    results[row] = vector if is_finite else NOT_FINITE
                return

    def check(self, loaded: "LoadedEncoder", max_items: int) -> None:
        """Check that a loaded encoder is that of the space.

        Raises:
            ConflictError: If its files, width or rows are others.
        """
        expected, actual = self.files_digest, loaded.files_digest
        if expected and actual and actual != expected:
            raise self._conflict(f"expected files of digest {expected}, got {actual}")
        if loaded.encoder.dim != self.dimension:
            raise self._conflict(
                f"expected embeddings of {self.dimension} numbers, got {loaded.encoder.dim}"
            )
        if self.probe.max_tokens is not None:
            self._check_max_tokens(loaded, self.probe.max_tokens)
        items = self.probe.items
        results = self._embed(
            loaded, max_items, range(len(items)), lambda rows: [items[row] for row in rows]
        ).results
        limit = MAX_DIFFERENCES.get(self.dtype, MAX_DIFFERENCES["float32"])
        for i, reference in enumerate(self.probe.rows):
            row = results[i]
            if isinstance(row, str):
                raise self._conflict(f"it cannot embed an input that the service embeds: {row}")
            length = max(float(np.linalg.norm(reference)), SMALLEST_LENGTH)
            difference = float(np.linalg.norm(row - reference)) / length
            if not difference <= limit:
                raise self._conflict(
                    f"expected the rows of the service within {limit:g} of their lengths, got one "
                    f"that differs by {difference:.2g}"
                )

    def _check_max_tokens(self, loaded: "LoadedEncoder", expected: int) -> None:
        """Check that texts are refused, or truncated, at the same length as by the service."""
        try:
            loaded.encoder.prepare([LONG_TEXT], truncate=False, input_type=self.input_type)
        except InvalidInputError as error:
            actual = read_max_tokens(error.message)
        else:
            actual = None
        if actual != expected:
            raise self._conflict(
                f"expected texts of at most {expected} tokens, as the service accepts them, got "
                f"{actual or 'no such limit'} (STITCHWORK_MAX_TEXT_TOKENS)"
            )

    def _conflict(self, reason: str) -> ConflictError:
        return ConflictError(
            f"{self.spec.model} on this machine is not the encoder of the space {self.space}: "
            f"{reason}. Use the model files, libraries and settings of the service's workers",
            code=ErrorCode.ENCODER_MISMATCH,
        )


def read_max_tokens(message: str) -> int | None:
    """The limit in the message that refuses a text that is too long; None if it has none."""
    match = MAX_TOKENS.search(message)
    return int(match[1]) if match else None


@lru_cache(maxsize=1)
def _load(encoder: SpaceEncoder) -> "tuple[LoadedEncoder, int]":
    """The encoder in memory, compiled and checked; once in each process."""
    encoders, max_items = encoder.open_encoders()
    loaded = encoders.get(encoder.spec)
    # Rows of a compiled model differ from those before in their last digits.
    loaded.wait_until_compiled()
    encoder.check(loaded, max_items)
    return loaded, max_items
