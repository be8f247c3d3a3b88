"""Methods of translation that are compared: the service's bridges, baselines, other programs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.evaluation.experiments.paired_baselines import (
    AnchorSvd,
    KernelRidge,
    KernelSpectrum,
    anchor_svd,
    kernel_ridge_gcv,
    kernel_spectra,
    polar,
    procrustes,
    ridge_gcv,
)
from stitchwork.evaluation.experiments.pruning import PrunedInverse, Pruner, PruningSetting
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
from stitchwork.geometry.ridge_factors import whitened_write

ABSOLUTE: Final = "absolute"
IRP_BEST: Final = "irp, best δ ω"
RIDGE_BOTH: Final = "both: ridge GCV"
PROCRUSTES: Final = "both: Procrustes"
KERNEL_RIDGE: Final = "both: kernel ridge"
KERNEL_RIDGE_WHITENED: Final = "both: kernel ridge, whitened"
PAIRED: Final = (RIDGE_BOTH, PROCRUSTES, KERNEL_RIDGE, KERNEL_RIDGE_WHITENED)
"""Methods that need both spaces at once."""
TRANSLATING_BRIDGES: Final[tuple[BridgeName, ...]] = tuple(b for b in BRIDGES if b != "none")
METHODS: Final = (ABSOLUTE, *TRANSLATING_BRIDGES, IRP_BEST, *PAIRED)
"""In the order of the tables."""

RowTranslator: TypeAlias = Callable[[Floats], Floats]
"""Takes rows of a source (n, d_X) to rows of a target (n, d_Y), both float32."""
PeerFunction: TypeAlias = Callable[[Floats, Floats, Floats, Floats], tuple[Floats, Floats]]
"""Another program: takes anchors of the source and of the target, queries of the source and a
database of the target, and returns queries and database as rows that can be compared."""


class DrawnSpace:
    """A space on one draw of anchors; what depends on it alone is computed once.

    Args:
        anchors: (k, d) float32.
        parameters: The space's parameters of the bridges; None uses the defaults.
    """

    def __init__(self, anchors: Floats, parameters: FactorParameters | None = None) -> None:
        self.anchors = anchors
        self.frame = Frame.from_anchors(anchors)
        self.parameters = parameters or FactorParameters()
        self._inverses: dict[InverseName, Inverse] = {}
        self._irp_inverses: dict[PruningSetting, PrunedInverse] = {}
        self._kernel_ridges = WeakKeyDictionary[DrawnSpace, KernelRidge]()

    def irp_inverses(
        self, settings: Iterable[PruningSetting]
    ) -> Mapping[PruningSetting, PrunedInverse]:
        """`irp`'s inverse at these settings and those before, each computed once."""
        missing = set(settings) - set(self._irp_inverses)
        # The smallest δ first: its traversals contain those of the others.
        for delta in sorted({setting.delta for setting in missing}):
            omegas = [setting.omega for setting in missing if setting.delta == delta]
            self._irp_inverses |= self.pruner.sweep([delta], omegas)
        return self._irp_inverses

    def prepare(self) -> None:
        """Compute everything that pairs with this space need."""
        own = PruningSetting(self.parameters.delta, self.parameters.omega)
        self.irp_inverses([own, own._replace(omega=1)])
        names = {name for bridge in TRANSLATING_BRIDGES for name in required_inverses(bridge)}
        for name in names - {"irp"}:
            self.fitted(name)
        _ = self.svd, self.kernel_spectra

    @cached_property
    def pruner(self) -> Pruner:
        """What `irp`'s inverses at many settings share."""
        return Pruner(self.frame)

    def fitted(self, name: InverseName | None) -> FittedSpace:
        """The space with the inverse that a bridge needs of it."""
        inverse = None if name is None else self.inverse(name)
        return FittedSpace(self.frame, self.parameters, inverse)

    def inverse(self, name: InverseName) -> Inverse:
        """One of the space's inverses, computed once."""
        if name not in self._inverses:
            self._inverses[name] = compute_inverse(name, self.frame, self.parameters)
        return self._inverses[name]

    @cached_property
    def kernel_spectra(self) -> list[KernelSpectrum]:
        """Kernels of the unit anchors, as a source of kernel ridge regression."""
        return kernel_spectra(self.frame)

    def kernel_ridge(self, target: "DrawnSpace") -> KernelRidge:
        """Kernel ridge regression to a target, tuned once."""
        if target not in self._kernel_ridges:
            self._kernel_ridges[target] = kernel_ridge_gcv(self.kernel_spectra, target.frame)
        return self._kernel_ridges[target]

    @cached_property
    def svd(self) -> AnchorSvd:
        """Singular values and directions of the unit anchors."""
        return anchor_svd(self.frame)


def method_translator(
    name: str, x: DrawnSpace, y: DrawnSpace, chosen: PruningSetting | None = None
) -> RowTranslator:
    """One of `METHODS` as a function of rows.

    Args:
        name: The method.
        x: The source.
        y: The target, on the same anchors.
        chosen: δ and ω of `IRP_BEST`; None uses the target's own.

    Returns:
        A function that returns what the service would, from inverses computed once for all pairs.
    """
    own = PruningSetting(y.parameters.delta, y.parameters.omega)
    if name == ABSOLUTE:
        return absolute_translator(y.frame.width)
    if name == RIDGE_BOTH:
        return map_translator(ridge_gcv(x.frame, y.frame, x.svd))
    if name == PROCRUSTES:
        return map_translator(procrustes(x.frame, y.frame))
    if name in (KERNEL_RIDGE, KERNEL_RIDGE_WHITENED):
        write = np.asarray(y.frame.unit_anchors)
        if name == KERNEL_RIDGE_WHITENED:
            write = np.asarray(whitened_write(y.frame, y.inverse("whitened")))
        return map_translator(x.kernel_ridge(y).to_map(x.frame, y.frame, write))
    if name in ("irp", "irp-completed", IRP_BEST):
        setting = {"irp": own, "irp-completed": own._replace(omega=1)}.get(name, chosen or own)
        write = y.irp_inverses([setting])[setting].write
        translator = completed_translator if name == "irp-completed" else irp_translator
        return translator(x, y, write)
    return bridge_translator(next(b for b in TRANSLATING_BRIDGES if b == name), x, y)


def bridge_translator(name: BridgeName, x: DrawnSpace, y: DrawnSpace) -> RowTranslator:
    """One of the service's bridges, composed by the service's own functions."""
    of_source, of_target = required_inverses(name)
    return map_translator(compose(name, x.fitted(of_source), y.fitted(of_target)))


def irp_translator(x: DrawnSpace, y: DrawnSpace, write: NDArray[np.float64]) -> RowTranslator:
    """`irp` with a write factor (k, d_Y) of the target."""
    product = x.frame.unit_anchors.T @ write
    return map_translator(LinearMap.from_product(product, x.frame, y.frame))


def irp_rows(cosines: NDArray[Any], target: DrawnSpace, inverse: PrunedInverse) -> Floats:
    """`irp` in two steps, which is cheaper than composing for many settings on few rows.

    Args:
        cosines: (n, k) relative representations of a source's rows.
        target: The target.
        inverse: Its inverse at some setting.

    Returns:
        (n, d_Y) what `irp_translator` returns for the rows, to within rounding.
    """
    used = np.flatnonzero(inverse.write.any(axis=1))
    unit, _ = normalise(cosines[:, used] @ inverse.write[used])
    return np.asarray(unit * target.frame.scale + target.frame.mean, np.float32)


def completed_translator(x: DrawnSpace, y: DrawnSpace, write: NDArray[np.float64]) -> RowTranslator:
    """`irp-completed` with the write factor (k, d_Y) of one subspace of the target."""
    product = polar(x.frame.unit_anchors.T @ write)
    return map_translator(LinearMap.from_product(product, x.frame, y.frame))


def absolute_translator(width: int) -> RowTranslator:
    """Rows unchanged; cut, or padded with zeros, to the target's width where that differs."""

    def translate(rows: Floats) -> Floats:
        result = np.zeros((len(rows), width), np.float32)
        shared = min(width, rows.shape[1])
        result[:, :shared] = rows[:, :shared]
        return result

    return translate


def map_translator(pair_map: Map) -> RowTranslator:
    """A map as a function of rows."""
    return lambda rows: np.asarray(pair_map.apply(rows).rows, np.float32)


def draw_anchors(available: NDArray[np.int64], k: int, seed: int, number: int) -> NDArray[np.int64]:
    """The k anchors of one draw, the same for every space and method; draws are not nested."""
    order: NDArray[np.int64] = np.random.default_rng((seed, number, k)).permutation(available)
    return order[:k]


def ordered_pairs(spaces: Sequence[str]) -> list[tuple[str, str]]:
    """All ordered pairs of different spaces, by target, so that a target is fitted once."""
    return [(x, y) for y in spaces for x in spaces if x != y]
