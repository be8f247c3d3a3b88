"""A data set under study: held-out rows, heads fitted once, and what pairs are measured on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.embedded_corpus import Embedded
from stitchwork.evaluation.experiments.experiment_settings import Settings
from stitchwork.evaluation.experiments.measures import Gallery, Labels, cosines
from stitchwork.evaluation.experiments.methods import Fitted, Translate, draw, written
from stitchwork.evaluation.experiments.probes import KINDS, Head, heads
from stitchwork.evaluation.experiments.pruning import Setting
from stitchwork.geometry.frame import relative_representation

Record: TypeAlias = dict[str, Any]
"""What an experiment found, as JSON can hold it."""
Told: TypeAlias = Callable[[int, int], None]
"""Called with steps done and steps in all."""
Chosen: TypeAlias = dict[tuple[str, str], Setting]
"""δ and ω by source and target."""

MOST_VALIDATED: Final = 600

THREADS: Final = 2
Of = TypeVar("Of")
Made = TypeVar("Made")


def side_by_side(work: Callable[[Of], Made], items: Iterable[Of]) -> Iterator[Made]:
    """The results of work on every item, in their order, on two threads.

    Products let go of the interpreter's lock. Two threads that each have one product to themselves
    are faster than two that share one, and never wait for each other on a busy machine.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, items)


def quietly(done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What pairs are measured on: held-out rows, their labels, and heads fitted before.

    Attributes:
        rows: By space: (n, d) held-out rows.
        labels: (n,) their labels, or None.
        heads: By space and kind; empty where there are no labels.
        gallery: How many of the first rows an item is searched among.
    """

    rows: Mapping[str, Floats]
    labels: Labels | None
    heads: Mapping[str, Mapping[str, Head]]
    gallery: int
    _galleries: WeakKeyDictionary[Fitted, Gallery] = field(default_factory=WeakKeyDictionary)

    def native(self) -> dict[str, dict[str, float]]:
        """By space and kind of head: accuracy of its own heads on its own rows."""
        if self.labels is None:
            return {}
        labels = self.labels
        return {
            space: {kind: head.accuracy(self.rows[space], labels) for kind, head in own.items()}
            for space, own in self.heads.items()
        }

    def measure(self, x: str, y: str, fitted: Fitted, translate: Translate) -> dict[str, float]:
        """What comes of rows of x translated to y: `measured` of what the way makes of them."""
        return self.measured(y, fitted, translate(self.rows[x]))

    def measured(self, y: str, fitted: Fitted, found: Floats) -> dict[str, float]:
        """What translated rows are worth.

        Args:
            y: The target.
            fitted: The target on its anchors.
            found: (n, d_Y) the held-out rows, translated.

        Returns:
            Accuracy by kind of head where there are labels; `recall1`, `recall10` and
            `overlap10`; `similarity` about the origin and `centred` about the anchors' mean.
        """
        true = self.rows[y]
        told = {}
        if self.labels is not None:
            told = {kind: head.accuracy(found, self.labels) for kind, head in self.heads[y].items()}
        near = slice(self.gallery)
        told |= self._gallery(y, fitted).retrieval(found[near])._asdict()
        told["similarity"] = cosines(found, true)
        told["centred"] = cosines(found, true, np.asarray(fitted.seen.mean))
        return {name: round(value, 6) for name, value in told.items()}

    def compared(self, y: str, fitted: Fitted, found: Floats, database: Floats) -> dict[str, float]:
        """What another program makes of rows translated to y and of the target's own.

        Args:
            y: The target.
            fitted: The target on its anchors.
            found: (n, m) the held-out rows of a source.
            database: (n, m) those of the target; themselves, where the program translates.

        Returns:
            As `measured`; only retrieval and cosine about the origin where the rows are of no
            space that has heads.
        """
        if database.shape == self.rows[y].shape and np.array_equal(database, self.rows[y]):
            return self.measured(y, fitted, found)
        near, nowhere = slice(self.gallery), np.zeros(database.shape[1], np.float32)
        told = Gallery(database[near], nowhere).retrieval(found[near])._asdict()
        told["similarity"] = cosines(found, database)
        return {name: round(value, 6) for name, value in told.items()}

    def score(self, y: str, fitted: Fitted, found: Floats) -> float:
        """Accuracy of the linear head on rows translated to y; recall@1 without labels."""
        if self.labels is not None:
            return self.heads[y]["linear"].accuracy(found, self.labels)
        return self._gallery(y, fitted).retrieval(found[: self.gallery]).recall1

    def _gallery(self, y: str, fitted: Fitted) -> Gallery:
        """The target's own rows, prepared once for all that are searched among them."""
        found = self._galleries.get(fitted)
        if found is None:
            found = Gallery(self.rows[y][: self.gallery], fitted.seen.mean)
            self._galleries[fitted] = found
        return found


@dataclass(frozen=True, eq=False)
class Study:
    """A data set and what is to be done with it; what experiments share is computed once.

    Raises:
        InvalidInputError: If there are fewer than two spaces.
    """

    embedded: Embedded
    settings: Settings

    def __post_init__(self) -> None:
        if len(self.spaces) < 2:
            raise InvalidInputError(
                f"{self.embedded.name}: expected at least 2 spaces, got {len(self.spaces)}"
            )

    @property
    def spaces(self) -> list[str]:
        """Names of the spaces."""
        return list(self.embedded.rows)

    @property
    def sizes(self) -> list[int]:
        """Numbers of anchors that are asked for and that the data allows."""
        return self.settings.sizes(len(self.embedded.train))

    @cached_property
    def bench(self) -> Bench:
        """Heads of both kinds fitted on training rows, and the rows held out."""
        rng = np.random.default_rng(self.settings.seed)
        train = rng.permutation(self.embedded.train)[: self.settings.head_rows]
        test = rng.permutation(self.embedded.test)[: self.settings.test_rows]
        return self._bench(train, test, KINDS)

    @cached_property
    def validation(self) -> tuple[Bench, NDArray[np.int64]]:
        """A bench of rows taken from train, with heads fitted on the rest, and that rest."""
        settings = self.settings
        order = np.random.default_rng((settings.seed, 1)).permutation(self.embedded.train)
        held = max(1, min(int(settings.validation * len(order)), MOST_VALIDATED))
        rest = order[held:]
        return self._bench(rest[: settings.head_rows], order[:held], ("linear",)), rest

    def anchors(self, k: int, number: int) -> dict[str, Fitted]:
        """Every space on the same k training rows, of one draw."""
        at = draw(self.embedded.train, k, self.settings.seed, number)
        return {space: Fitted(rows[at]) for space, rows in self.embedded.rows.items()}

    def choose(self, k: int) -> Chosen:
        """The δ and ω of `irp` that are best for each pair on the validation rows.

        Anchors are a draw of the training rows that are left; best is the accuracy of the linear
        head, or recall@1 where there are no labels. Held-out rows are not looked at.
        """
        on, rest = self.validation
        settings = self.settings
        at = draw(rest, min(k, len(rest)), settings.seed, settings.draws)
        fitted = {space: Fitted(rows[at]) for space, rows in self.embedded.rows.items()}
        # Not fused: of many settings on few rows, the products with what is kept are the cheaper.
        cosines_of = {x: relative_representation(on.rows[x], own.seen) for x, own in fitted.items()}

        def best(y: str) -> Chosen:
            target, found = fitted[y], Chosen()
            writes = target.pruner.sweep(settings.deltas, settings.omegas)
            for x in fitted:
                if x == y:
                    continue
                scores = {
                    setting: on.score(y, target, written(cosines_of[x], target, pruned))
                    for setting, pruned in writes.items()
                }
                found[x, y] = max(scores, key=lambda setting: scores[setting])
            return found

        return {pair: own for part in side_by_side(best, fitted) for pair, own in part.items()}

    def _bench(
        self, train: NDArray[np.int64], test: NDArray[np.int64], kinds: Sequence[str]
    ) -> Bench:
        embedded, own = self.embedded, dict[str, Mapping[str, Head]]()
        labels = None if embedded.labels is None else embedded.labels[test]
        if labels is not None:
            seed = self.settings.seed
            own = {space: heads(embedded, space, train, kinds, seed) for space in self.spaces}
        rows = {space: rows[test] for space, rows in embedded.rows.items()}
        return Bench(rows, labels, own, self.settings.gallery)
