"""What a process keeps at hand: maps from one space to another, and classifiers of heads."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

from stitchwork.errors import AnchorSetMismatchError, ErrorCode, InvalidInputError
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
from stitchwork.registry.registry import Registry
from stitchwork.resources import Head, Space
from stitchwork.telemetry import Metrics

Key = tuple[str, str, BridgeName]


class TranslatedRows(NamedTuple):
    """Rows in the target space, and what is to be said of the inputs.

    Attributes:
        rows: (n, d_Y) float32, finite.
        defined: (n,) bool; False where the input stands at its space's mean.
        covered: (n,) bool; False where it lies outside what the source's anchors cover.
    """

    rows: Any
    defined: Any
    covered: Any


@dataclass(frozen=True, slots=True, eq=False)
class PairMap:
    """The way from one space to another.

    Attributes:
        map: What takes rows there.
        coverage: What the source's anchors cover; None where rows do not go by anchors at all.
    """

    map: Map
    coverage: Coverage | None

    @property
    def nbytes(self) -> int:
        """Memory that its arrays hold, in bytes."""
        return self.map.nbytes + (self.coverage.nbytes if self.coverage else 0)

    def convert_arrays(self, convert: Callable[[Any], Any]) -> "PairMap":
        """The same way with every array converted, such as onto a device."""
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
    """Fused maps of this process.

    Args:
        registry: Where anchors come from.
        inverses: Where pseudo-inverses come from.
        max_bytes: Memory that kept maps may hold; the least recently used go first.
        place: Puts an array where maps are applied, such as a worker's device.
        metrics: Where it is counted how often a map was kept.
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
        self._cache = self._metrics.caches["map"]
        self._registry = registry
        self._inverses = inverses
        self._max_bytes = max_bytes
        self._place = place
        self._guard = threading.Lock()
        self._ways: OrderedDict[Key, PairMap] = OrderedDict()
        self._running: dict[Key, Future[PairMap]] = {}
        self._bytes = 0

    def way(self, source: Space, target: Space, bridge: BridgeName) -> PairMap:
        """The way from one space to another.

        Args:
            source: The version that inputs live in.
            target: The version that outputs live in.
            bridge: Which way through the anchors.

        Returns:
            It takes (n, d_source) rows to (n, d_target) rows; from a space to itself, to the same.

        Raises:
            AnchorSetMismatchError: If the spaces do not share an anchor set.
            InvalidInputError: If the bridge is `none` and the widths differ.
        """
        check_pair(source, target, bridge)
        key = (source.version, target.version, bridge)
        with self._guard:
            known = self._ways.get(key)
            if known is not None:
                self._ways.move_to_end(key)
                self._cache.hit.inc()
                return known
            running = self._running.get(key)
            mine = running is None
            if running is None:
                running = self._running[key] = Future()
        # Whoever waits for another's computation spares their own.
        (self._cache.miss if mine else self._cache.hit).inc()
        if mine:
            self._settle(key, running, source, target)
        return running.result()

    def prepare(self, space: Space) -> None:
        """Start computing what the default bridge needs of a space, before anyone asks for it."""
        for name in REQUIRED_INVERSES[DEFAULT_BRIDGE]:
            if name is not None:
                self._inverses.start(name, space, lambda: self._registry.frame(space))

    def _settle(self, key: Key, future: Future[PairMap], source: Space, target: Space) -> None:
        # Whatever happens, those who wait on this future get an answer.
        try:
            found = self._compute(source, target, key[2])
        except BaseException as error:  # noqa: BLE001 even an interrupt
            with self._guard:
                del self._running[key]
            future.set_exception(error)
            return
        with self._guard:
            del self._running[key]
            self._ways[key] = found
            self._bytes += found.nbytes
            while self._bytes > self._max_bytes and len(self._ways) > 1:
                _, dropped = self._ways.popitem(last=False)
                self._bytes -= dropped.nbytes
            self._metrics.map_cache_bytes.set(self._bytes)
        future.set_result(found)

    def _compute(self, source: Space, target: Space, bridge: BridgeName) -> PairMap:
        coverage = None
        if source.version == target.version:
            found = identity_map(self._registry.frame(source))
        else:
            of_source, of_target = required_inverses(bridge)
            side = self._side(source, of_source)
            found = compose(bridge, side, self._side(target, of_target))
            coverage = Coverage.from_frame(side.frame) if bridge != "none" else None
        way = PairMap(found, coverage)
        return way.convert_arrays(self._place) if self._place else way

    def _side(self, space: Space, name: InverseName | None) -> FittedSpace:
        seen = self._registry.frame(space)
        found = None if name is None else self._inverses.get(name, space, lambda: seen)
        return FittedSpace(seen, space.parameters.checked(), found)


class ClassifierCache:
    """Classifiers of heads in this process.

    Args:
        registry: Where weights come from.
        most: Heads that are kept; the least recently used go first.
        place: Puts an array where heads are applied.
        metrics: Where it is counted how often a head was kept.
    """

    def __init__(
        self,
        registry: Registry,
        most: int = 256,
        place: Callable[[Any], Any] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._cache = (metrics or Metrics()).caches["head"]
        self._registry = registry
        self._most = most
        self._place = place
        self._guard = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Classifier] = OrderedDict()

    def get(self, head: Head) -> Classifier:
        """The classifier of one version of a head."""
        key = (head.id, head.version)
        with self._guard:
            if key in self._kept:
                self._kept.move_to_end(key)
                self._cache.hit.inc()
                return self._kept[key]
        self._cache.miss.inc()
        found = self._registry.classifier(head)
        if self._place:
            found = found.convert_arrays(self._place)
        with self._guard:
            self._kept[key] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found


def check_pair(source: Space, target: Space, bridge: BridgeName) -> None:
    """Refuse a pair of spaces that no bridge may join.

    Raises:
        AnchorSetMismatchError: If the spaces do not share an anchor set.
        InvalidInputError: If the bridge is `none` and the widths differ.
    """
    if (source.anchor_set, source.anchor_set_version) != (
        target.anchor_set,
        target.anchor_set_version,
    ):
        raise AnchorSetMismatchError(
            f"space {source.id} is on anchor set {source.anchor_set}, space {target.id} on "
            f"{target.anchor_set}: only spaces on the same anchor set can be translated"
        )
    if bridge == "none" and source.dim != target.dim:
        raise InvalidInputError(
            f"bridge none passes rows through, but space {source.id} is {source.dim} wide and "
            f"space {target.id} {target.dim}",
            pointer="/bridge",
            code=ErrorCode.WRONG_WIDTH,
        )
