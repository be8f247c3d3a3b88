"""Caches of one process: maps of pairs of spaces, and classifiers of heads."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

from array_api_compat import array_namespace
from cachetools import LRUCache

from stitchwork.background import lower_priority, single_blas_thread
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

CLASSIFIER_BYTES: Final = 128 * 1024 * 1024
FLOAT32_BYTES: Final = 4

MapKey = tuple[str, str, BridgeName]


class TranslatedRows(NamedTuple):
    """Rows of the target space, with marks of inputs that translate badly.

    Attributes:
        rows: (n, d_Y) float32, finite.
        defined: (n,) bool; False where the input equals the mean of its space, which has no
            direction.
        covered: (n,) bool; False where the input is outside what the source's anchors cover.
    """

    rows: Any
    defined: Any
    covered: Any


@dataclass(frozen=True, eq=False)
class PairMap:
    """The map of an ordered pair of spaces, and the coverage of the source's anchors.

    Without slots, since its size is computed once.

    Attributes:
        map: Maps rows of the source to rows of the target.
        coverage: Decides which rows the anchors cover; None if the map does not use anchors.
    """

    map: Map
    coverage: Coverage | None

    @cached_property
    def nbytes(self) -> int:
        """Size of its arrays, in bytes."""
        return self.map.nbytes + (self.coverage.nbytes if self.coverage else 0)

    def convert_arrays(self, convert: Callable[[Any], Any]) -> "PairMap":
        """Convert each array, such as to a tensor on a device."""
        return PairMap(
            self.map.convert_arrays(convert),
            self.coverage and self.coverage.convert_arrays(convert),
        )

    def apply(self, x: Any) -> TranslatedRows:
        """Translate (n, d_X) float32 rows into (n, d_Y) float32 rows."""
        rows, defined = self.map.apply(x)
        if self.coverage is None:
            return TranslatedRows(rows, defined, array_namespace(defined).ones_like(defined))
        return TranslatedRows(rows, defined, self.coverage.covers(x))


class Translator:
    """Maps of pairs of spaces, in a least recently used cache of this process.

    Concurrent callers share one computation.

    Args:
        registry: Source of anchors.
        inverses: Source of inverses.
        max_bytes: Maximum size of the cached maps.
        place: Converts the arrays of a map, such as to tensors on a worker's device.
        metrics: Counts cache hits and misses.
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
        # A map larger than the cache is cached as well, alone: it replaces all others.
        self._cache: LRUCache[MapKey, PairMap] = LRUCache(
            max_bytes, getsizeof=lambda pair_map: min(pair_map.nbytes, max_bytes)
        )
        self._pending: dict[MapKey, Future[PairMap]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compose", initializer=lower_priority)

    def pair_map(self, source: Space, target: Space, bridge: BridgeName) -> PairMap:
        """The map from one space to another.

        Args:
            source: The space of the inputs.
            target: The space of the outputs; if it is the source, the map is the identity.
            bridge: The bridge.

        Returns:
            A map from (n, d_X) rows to (n, d_Y) rows.

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

    def count_products(self, source: Space, target: Space, bridge: BridgeName) -> int | None:
        """The multiplications that one row takes; None if the map is not cached."""
        with self._lock:
            cached = self._cache.get((source.version, target.version, bridge))
        # Each number of a map is multiplied with one of a row, once.
        return None if cached is None else cached.nbytes // FLOAT32_BYTES

    def prepare(self, space: Space) -> None:
        """Start computing the inverses of a space that the default bridge needs."""
        for name in REQUIRED_INVERSES[DEFAULT_BRIDGE]:
            if name is not None:
                self._inverses.start(name, space, lambda: self._registry.frame(space))

    def _settle(self, key: MapKey, pending: Future[PairMap], source: Space, target: Space) -> None:
        # Whatever happens, the callers that wait for this future get a result or an error.
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
        coverage: Coverage | None = None
        if source.version == target.version:
            composed = identity_map(self._registry.frame(source))
        else:
            source_inverse, target_inverse = required_inverses(bridge)
            side = self._side(source, source_inverse)
            other = self._side(target, target_inverse)
            composed, coverage = self._pool.submit(_compose, bridge, side, other).result()
        pair_map = PairMap(composed, coverage)
        return pair_map.convert_arrays(self._place) if self._place else pair_map

    def _side(self, space: Space, name: InverseName | None) -> FittedSpace:
        frame = self._registry.frame(space)
        inverse = None if name is None else self._inverses.get(name, space, lambda: frame)
        return FittedSpace(frame, space.parameters.checked(), inverse, space.unit)


def _compose(
    bridge: BridgeName, source: FittedSpace, target: FittedSpace
) -> tuple[Map, Coverage | None]:
    """A map and the coverage of its source, computed in the background of requests."""
    with single_blas_thread():
        composed = compose(bridge, source, target)
        return composed, Coverage.from_frame(source.frame) if bridge != "none" else None


class ClassifierCache:
    """Classifiers of heads, in a least recently used cache of this process.

    Args:
        registry: Source of weights.
        max_bytes: Maximum size of the cached classifiers.
        place: Converts the arrays of a classifier, such as to tensors on a worker's device.
        metrics: Counts cache hits and misses.
    """

    def __init__(
        self,
        registry: Registry,
        max_bytes: int = CLASSIFIER_BYTES,
        place: Callable[[Any], Any] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._lookups = (metrics or Metrics()).caches["head"]
        self._registry = registry
        self._place = place
        self._lock = threading.Lock()
        self._cache: LRUCache[tuple[str, str], Classifier] = LRUCache(
            max_bytes, getsizeof=lambda classifier: min(classifier.nbytes, max_bytes)
        )

    def count_products(self, head: Head) -> int | None:
        """The multiplications that one row takes; None if the classifier is not cached."""
        with self._lock:
            cached = self._cache.get((head.id, head.version))
        return None if cached is None else cached.nbytes // FLOAT32_BYTES

    def get(self, head: Head) -> Classifier:
        """Get the classifier of a version of a head."""
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
