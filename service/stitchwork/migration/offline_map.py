"""The map that a move applies on this machine, pinned to the versions that it began with."""

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.export.map_file import MapFile, read_map
from stitchwork.inference.length_report import FITTING, LengthReport, row_lengths

if TYPE_CHECKING:
    from stitchwork.client import Stitchwork


class MapVersions(NamedTuple):
    """What a map is of.

    Attributes:
        source: Id of the source space.
        source_version: Its version.
        target: Id of the target space.
        target_version: Its version.
        bridge: The bridge.
    """

    source: str
    source_version: str
    target: str
    target_version: str
    bridge: str


class MappedRows(NamedTuple):
    """Rows in the target space, with marks of those that translate badly.

    Attributes:
        rows: (n, d_Y) float32.
        finite: (n,) bool; False where the input has a number that is not finite.
        zero: (n,) bool; True where all numbers of the input are zero.
        defined: (n,) bool; False where the input equals the mean of its space.
        covered: (n,) bool; False where it is outside what the anchors cover.
    """

    rows: NDArray[np.float32]
    finite: NDArray[np.bool_]
    zero: NDArray[np.bool_]
    defined: NDArray[np.bool_]
    covered: NDArray[np.bool_]


class SourceLengths(NamedTuple):
    """Lengths of the anchors of the source space.

    Attributes:
        id: Id of the space.
        norm_mean: Their mean.
        norm_std: Their standard deviation.
    """

    id: str
    norm_mean: float
    norm_std: float


class OfflineMap:
    """A map from one space to another, as the service exports it.

    Args:
        data: The bytes of its safetensors file.

    Attributes:
        data: The same.
        versions: What it is of.

    Raises:
        InvalidInputError: If it is no such file.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._file: MapFile = read_map(data)
        metadata = self._file.metadata
        missing = [name for name in MapVersions._fields if name not in metadata]
        if missing:
            raise InvalidInputError(f"expected a map that names {', '.join(missing)}")
        self.versions = MapVersions(*(metadata[name] for name in MapVersions._fields))

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        """Between processes the file travels, which each of them reads."""
        return type(self), (self.data,)

    @classmethod
    def fetch(
        cls, client: "Stitchwork", source: str, target: str, bridge: str | None = None
    ) -> Self:
        """The map of a pair of spaces from a running service.

        Args:
            client: A client of the service.
            source: Id of the source space.
            target: Id of the target space.
            bridge: Default: the service's.
        """
        return cls(client.export(source, target, bridge))

    @property
    def source_width(self) -> int:
        """Width of the rows of the source space."""
        return self._file.map.source_width

    @property
    def target_width(self) -> int:
        """Width of the rows of the target space."""
        return self._file.map.target_width

    def apply(self, vectors: NDArray[np.float32]) -> MappedRows:
        """Translate (n, d_X) float32 rows."""
        # A sum that is not finite also comes of finite numbers, hence the second look.
        with np.errstate(all="ignore"):
            finite = np.isfinite(vectors.sum(axis=1))
        if not finite.all():
            finite = np.isfinite(vectors).all(axis=1)
        rows, defined = self._file.map.apply(vectors)
        coverage = self._file.coverage
        covered = coverage.covers(vectors) if coverage else np.ones(len(vectors), bool)
        zero: NDArray[np.bool_] = ~np.any(vectors, axis=1)
        return MappedRows(rows, finite, zero, defined, covered)

    def length_report(self, vectors: NDArray[np.float32]) -> LengthReport:
        """Compare the lengths of finite rows, (n, d_X) float32, with those of the anchors.

        Maps of earlier releases do not have the lengths: nothing is reported then.
        """
        metadata = self._file.metadata
        if "source_norm_mean" not in metadata or not len(vectors):
            return FITTING
        mean, std = (float(metadata[f"source_norm_{name}"]) for name in ("mean", "std"))
        space = SourceLengths(self.versions.source, mean, std)
        return LengthReport.of(row_lengths(vectors), space)
