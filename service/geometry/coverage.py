"""Whether inputs lie where a space's anchors do: only there does a bridge know the way."""

from dataclasses import dataclass, replace
from typing import Final

from array_api_compat import array_namespace, device

from service.geometry import Array
from service.geometry.arrays import Convert, largest, quiet, spaced
from service.geometry.relative import Frame

REFERENCES: Final = 256
"""Evenly spaced anchors that inputs are compared with."""
MEASURED: Final = 1024
"""Evenly spaced anchors that the threshold is taken from."""
NEIGHBOURS: Final = 5
QUANTILE: Final = 0.01
FEWEST: Final = 40
"""Of fewer anchors each is as far from the others as a stranger would be."""


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """What the anchors of one space cover.

    Attributes:
        mean: (d,) float32, the anchors' mean.
        references: (m, d) float32 unit anchors, at most 256.
        threshold: Least mean of an input's five largest cosines to them; −1 where there are too
            few to tell, which every input reaches.
    """

    mean: Array
    references: Array
    threshold: float

    @classmethod
    def of(cls, seen: Frame) -> "Coverage":
        """From the anchors alone: of 100 anchors that are themselves left out, one lies outside."""
        unit = seen.unit
        xp = array_namespace(unit)
        some = spaced(seen.count, REFERENCES)
        measured = spaced(seen.count, MEASURED)
        at = xp.asarray(some, device=device(unit))
        references = unit[at, :]
        threshold = -1.0
        if seen.count >= FEWEST:
            cosines = unit[xp.asarray(measured, device=device(unit)), :] @ references.T
            itself = xp.asarray(measured[:, None] == some[None, :], device=device(unit))
            closest = xp.mean(largest(xp.where(itself, -1.0, cosines), NEIGHBOURS), axis=1)
            ranked = xp.sort(closest)
            threshold = float(ranked[int(QUANTILE * len(measured))])
        return cls(xp.astype(seen.mean, xp.float32), xp.astype(references, xp.float32), threshold)

    @property
    def nbytes(self) -> int:
        """Memory that its arrays hold, in bytes."""
        return int(self.mean.nbytes + self.references.nbytes)

    def on(self, convert: Convert) -> "Coverage":
        """The same with its arrays converted, such as onto a device."""
        return replace(self, mean=convert(self.mean), references=convert(self.references))

    def covers(self, x: Array) -> Array:
        """Which inputs lie where the anchors do.

        Args:
            x: (n, d) rows of the space, need not be unit.

        Returns:
            (n,) bool, True for a row at the mean, which has no direction, and False for one too
            large for float32. Scaling a row about the mean changes nothing. Takes O(n·m) memory.
        """
        xp = array_namespace(x, self.references)
        if self.threshold <= -1:
            return xp.ones_like(x[:, 0], dtype=xp.bool)
        with quiet():
            rows = x - self.mean
            lengths = xp.sqrt(xp.vecdot(rows, rows))
            closest = xp.mean(largest(rows @ self.references.T, NEIGHBOURS), axis=1)
            # What overflowed compares false: it lies nowhere.
            return closest >= self.threshold * lengths
