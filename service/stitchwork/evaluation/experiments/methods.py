"""Ways from one space to another that are compared: the service's bridges, baselines, peers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.evaluation.experiments.paired_baselines import (
    Eigen,
    eigen,
    polar,
    procrustes,
    ridge_gcv,
)
from stitchwork.evaluation.experiments.pruning import Pruned, Pruner, Setting
from stitchwork.geometry.bridges import (
    BRIDGES,
    BridgeName,
    FactorParameters,
    FittedSpace,
    Inverse,
    InverseName,
    Map,
    compose,
    compute_inverse,
    required_inverses,
)
from stitchwork.geometry.frame import Frame, normalise
from stitchwork.geometry.maps import LinearMap

ABSOLUTE: Final = "absolute"
IRP_BEST: Final = "irp, best δ ω"
RIDGE_BOTH: Final = "both: ridge GCV"
PROCRUSTES: Final = "both: Procrustes"
SERVED: Final[tuple[BridgeName, ...]] = tuple(b for b in BRIDGES if b != "none")
"""The bridges that translate."""
METHODS: Final = (ABSOLUTE, *SERVED, IRP_BEST, RIDGE_BOTH, PROCRUSTES)
"""What is compared, in the order of the tables; the last two need both spaces at once."""

Translate: TypeAlias = Callable[[Floats], Floats]
"""Rows of a source (n, d_X) as rows of a target (n, d_Y), both float32."""
Peer: TypeAlias = Callable[[Floats, Floats, Floats, Floats], tuple[Floats, Floats]]
"""Another program: anchors of the source and of the target, queries of the source and a database
of the target, to both as rows that can be compared."""


class Fitted:
    """A space on one draw of anchors; what it takes from itself alone is computed once.

    Args:
        anchors: (k, d) float32.
        parameters: Of the bridges.
    """

    def __init__(self, anchors: Floats, parameters: FactorParameters | None = None) -> None:
        self.anchors = anchors
        self.seen = Frame.from_anchors(anchors)
        self.parameters = parameters or FactorParameters()
        self._inverses: dict[InverseName, Inverse] = {}
        self._irp: dict[Setting, Pruned] = {}

    def irp(self, settings: Iterable[Setting]) -> Mapping[Setting, Pruned]:
        """`irp`'s inverse at some settings, each computed once."""
        wanted = set(settings) - set(self._irp)
        # The least δ first: its traversals hold those of the others.
        for delta in sorted({setting.delta for setting in wanted}):
            omegas = [setting.omega for setting in wanted if setting.delta == delta]
            self._irp |= self.pruner.sweep([delta], omegas)
        return self._irp

    def prepare(self) -> None:
        """Compute what every pair of this space asks of it."""
        own = Setting(self.parameters.delta, self.parameters.omega)
        self.irp([own, own._replace(omega=1)])
        for name in {name for served in SERVED for name in required_inverses(served)} - {"irp"}:
            self.side(name)
        _ = self.eigen

    @cached_property
    def pruner(self) -> Pruner:
        """What `irp`'s inverses at many settings share."""
        return Pruner(self.seen)

    def side(self, name: InverseName | None) -> FittedSpace:
        """The space with the inverse that a bridge needs of it."""
        if name is None:
            return FittedSpace(self.seen, self.parameters)
        if name not in self._inverses:
            self._inverses[name] = compute_inverse(name, self.seen, self.parameters)
        return FittedSpace(self.seen, self.parameters, self._inverses[name])

    @cached_property
    def eigen(self) -> Eigen:
        """Singular values and directions of the unit anchors."""
        return eigen(self.seen)


def bridge(name: BridgeName, x: Fitted, y: Fitted) -> Translate:
    """One of the service's bridges, fused by the service's own functions."""
    of_source, of_target = required_inverses(name)
    return applied(compose(name, x.side(of_source), y.side(of_target)))


def through(x: Fitted, y: Fitted, write: NDArray[np.float64]) -> Translate:
    """`irp` with an inverse (k, d_Y) of the target at hand."""
    return applied(LinearMap.from_product(x.seen.unit_anchors.T @ write, x.seen, y.seen))


def written(cosines: NDArray[Any], target: Fitted, pruned: Pruned) -> Floats:
    """`irp` without fusing it, which is cheaper for many settings on few rows.

    Args:
        cosines: (n, k) relative representations of a source's rows.
        target: The target.
        pruned: Its inverse at some setting.

    Returns:
        What `through` makes of the rows, to within rounding.
    """
    kept = np.flatnonzero(pruned.write.any(axis=1))
    rows, _ = normalise(cosines[:, kept] @ pruned.write[kept])
    return np.asarray(rows * target.seen.scale + target.seen.mean, np.float32)


def completed(x: Fitted, y: Fitted, write: NDArray[np.float64]) -> Translate:
    """`irp-completed` with the inverse (k, d_Y) of one subspace of the target at hand."""
    return applied(LinearMap.from_product(polar(x.seen.unit_anchors.T @ write), x.seen, y.seen))


def method(name: str, x: Fitted, y: Fitted, chosen: Setting | None = None) -> Translate:
    """One of `METHODS`.

    Args:
        name: Which.
        x: The source.
        y: The target, on the same anchors.
        chosen: δ and ω of the method that wants the best; None takes the target's own.

    Returns:
        What the service would answer, from inverses that are computed once for all pairs.
    """
    own = Setting(y.parameters.delta, y.parameters.omega)
    if name == ABSOLUTE:
        return absolute(y.seen.width)
    if name == RIDGE_BOTH:
        return applied(ridge_gcv(x.seen, y.seen, x.eigen))
    if name == PROCRUSTES:
        return applied(procrustes(x.seen, y.seen))
    if name in ("irp", "irp-completed", IRP_BEST):
        wanted = {"irp": own, "irp-completed": own._replace(omega=1)}.get(name, chosen or own)
        write = y.irp([wanted])[wanted].write
        return (completed if name == "irp-completed" else through)(x, y, write)
    return bridge(next(served for served in SERVED if served == name), x, y)


def absolute(width: int) -> Translate:
    """Rows as they are; cut, or filled with zeros, to the target's width where that differs."""

    def translate(rows: Floats) -> Floats:
        found = np.zeros((len(rows), width), np.float32)
        shared = min(width, rows.shape[1])
        found[:, :shared] = rows[:, :shared]
        return found

    return translate


def applied(fused: Map) -> Translate:
    """A map as a function of rows."""
    return lambda rows: np.asarray(fused.apply(rows).rows, np.float32)


def draw(available: NDArray[np.int64], k: int, seed: int, number: int) -> NDArray[np.int64]:
    """The k anchors of one draw, the same for every space and method; smaller k are not nested."""
    picked: NDArray[np.int64] = np.random.default_rng((seed, number, k)).permutation(available)[:k]
    return picked


def pairs(spaces: Sequence[str]) -> list[tuple[str, str]]:
    """All ordered pairs of different spaces, by target, so that a target is fitted once."""
    return [(x, y) for y in spaces for x in spaces if x != y]
