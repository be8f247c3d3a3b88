"""Caches of one process: maps of pairs of spaces, and classifiers of heads."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cachetools import LRUCache

from stitchwork.geometry.bridges import (
    DEFAULT_BRIDGE,
    REQUIRED_INVERSES,
    BridgeName,
    FittedSpace,
    InverseName,
    Map,
    compose,
    identity_map,
    required_inverses,
)
from stitchwork.geometry.classifier import Classifier
from stitchwork.geometry.coverage import Coverage
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.resolve import check_pair
from stitchwork.registry.registry import Registry
from stitchwork.resources import Head, Space
from stitchwork.telemetry import Metrics

MAX_CLASSIFIERS: Final = 256

MapKey = tuple[str, str, BridgeName]


class TranslatedRows(NamedTuple):
    """Rows in the target space, and what is known of the inputs.

    Attributes:
        rows: (n, d_Y) float32, finite.
        defined: (n,) bool; False where the input equals the mean of its space, which has no
            direction.
        covered: (n,) bool; False where the input lies outside what the source's anchors cover.
    """

    rows: Any
    defined: Any
    covered: Any


@dataclass(frozen=True, slots=True, eq=False)
class PairMap:
    """What a pair of spaces is translated by.

    Attributes:
        map: Takes rows of the source to rows of the target.
        coverage: What the source's anchors cover; None where rows do not pass through anchors.
    """

    map: Map
    coverage: Coverage | None

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, in bytes."""
        return self.map.nbytes + (self.coverage.nbytes if self.coverage else 0)

    def convert_arrays(self, convert: Callable[[Any], Any]) -> "PairMap":
        """The same with every array converted, such as onto a device."""
        return PairMap(
            self.map.convert_arrays(convert),
            self.coverage and self.coverage.convert_arrays(convert),
        )

    def apply(self, x: Any) -> TranslatedRows:
        """Rows (n, d_X) of the source as rows (n, d_Y) of the target."""
        rows, defined = self.map.apply(x)
        covered = self.coverage.covers(x) if self.coverage else defined | ~defined
        return TranslatedRows(rows, defined, covered)


class Translator:
    """Maps of this process: computed once however many ask, the least recently used dropped first.

    Args:
        registry: Where anchors come from.
        inverses: Where inverses come from.
        max_bytes: Memory of cached maps.
        place: Puts an array where maps are applied, such as a worker's device.
        metrics: Where cache hits and misses are counted.
    """

    def __init__(
        self,
        registry: Registry,
        inverses: InverseCache,
        max_bytes: int,
        place: Callable[[Any], Any] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._lookups = self._metrics.caches["map"]
        self._registry = registry
        self._inverses = inverses
        self._place = place
        self._lock = threading.Lock()
        # A map that is larger than the cache replaces all others.
        self._cache: LRUCache[MapKey, PairMap] = LRUCache(
            max_bytes, getsizeof=lambda pair_map: min(pair_map.nbytes, max_bytes)
        )
        self._pending: dict[MapKey, Future[PairMap]] = {}

    def pair_map(self, source: Space, target: Space, bridge: BridgeName) -> PairMap:
        """The map from one space to another.

        Args:
            source: The version that inputs are in.
            target: The version that outputs are in.
            bridge: The bridge.

        Returns:
            It takes (n, d_source) rows to (n, d_target) rows; from a space to itself, to the same.

        Raises:
            AnchorSetMismatchError: If the spaces do not share an anchor set.
            InvalidInputError: If the bridge is `none` and the widths differ.
        """
        check_pair(source, target, bridge)
        key = (source.version, target.version, bridge)
        with self._lock:
            cached = self._cache.get(key)
            if cached is not None:
                self._lookups.hit.inc()
                return cached
            pending = self._pending.get(key)
            is_first = pending is None
            if pending is None:
                pending = self._pending[key] = Future()
        # Waiting for the computation of another caller counts as a hit.
        (self._lookups.miss if is_first else self._lookups.hit).inc()
        if is_first:
            self._settle(key, pending, source, target)
        return pending.result()

    def prepare(self, space: Space) -> None:
        """Start computing the inverses of a space that the default bridge required_inverses."""
        for name in REQUIRED_INVERSES[DEFAULT_BRIDGE]:
            if name is not None:
                self._inverses.start(name, space, lambda: self._registry.frame(space))

    def _settle(self, key: MapKey, pending: Future[PairMap], source: Space, target: Space) -> None:
        # Whatever happens, those who wait for this future get a result or an error.
        try:
            result = self._compute(source, target, key[2])
        except BaseException as error:  # noqa: BLE001 even an interrupt
            with self._lock:
                del self._pending[key]
            pending.set_exception(error)
            return
        with self._lock:
            del self._pending[key]
            self._cache[key] = result
            self._metrics.map_cache_bytes.set(self._cache.currsize)
        pending.set_result(result)

    def _compute(self, source: Space, target: Space, bridge: BridgeName) -> PairMap:
        coverage = None
        if source.version == target.version:
            composed = identity_map(self._registry.frame(source))
        else:
            source_inverse, target_inverse = required_inverses(bridge)
            side = self._side(source, source_inverse)
            composed = compose(bridge, side, self._side(target, target_inverse))
            coverage = Coverage.from_frame(side.frame) if bridge != "none" else None
        pair_map = PairMap(composed, coverage)
        return pair_map.convert_arrays(self._place) if self._place else pair_map

    def _side(self, space: Space, name: InverseName | None) -> FittedSpace:
        frame = self._registry.frame(space)
        inverse = None if name is None else self._inverses.get(name, space, lambda: frame)
        return FittedSpace(frame, space.parameters.checked(), inverse)


class ClassifierCache:
    """Classifiers of heads in this process; the least recently used are dropped first.

    Args:
        registry: Where weights come from.
        max_classifiers: Number of cached classifiers.
        place: Puts an array where heads are applied, such as a worker's device.
        metrics: Where cache hits and misses are counted.
    """

    def __init__(
        self,
        registry: Registry,
        max_classifiers: int = MAX_CLASSIFIERS,
        place: Callable[[Any], Any] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._lookups = (metrics or Metrics()).caches["head"]
        self._registry = registry
        self._place = place
        self._lock = threading.Lock()
        self._cache: LRUCache[tuple[str, str], Classifier] = LRUCache(max_classifiers)

    def get(self, head: Head) -> Classifier:
        """The classifier of one version of a head."""
        key = (head.id, head.version)
        with self._lock:
            cached = self._cache.get(key)
        if cached is not None:
            self._lookups.hit.inc()
            return cached
        self._lookups.miss.inc()
        classifier = self._registry.classifier(head)
        if self._place:
            classifier = classifier.convert_arrays(self._place)
        with self._lock:
            self._cache[key] = classifier
        return classifier
