"""One data set of an evaluation: test rows, heads fitted once, and measurements of pairs."""

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
from stitchwork.evaluation.embedded_corpus import EmbeddedCorpus
from stitchwork.evaluation.experiments.experiment_settings import ExperimentSettings
from stitchwork.evaluation.experiments.measures import (
    Gallery,
    Labels,
    cosines,
    store_neighbours,
    store_overlaps,
)
from stitchwork.evaluation.experiments.methods import (
    DrawnSpace,
    RowTranslator,
    draw_anchors,
    irp_rows,
)
from stitchwork.evaluation.experiments.probes import KINDS, ProbeHead, fit_probe_heads
from stitchwork.evaluation.experiments.pruning import PruningSetting
from stitchwork.geometry.frame import relative_representation

Record: TypeAlias = dict[str, Any]
"""A measurement or result of an experiment, as JSON."""
ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called with the number of finished steps and of all steps."""
ChosenSettings: TypeAlias = dict[tuple[str, str], PruningSetting]
"""δ and ω by source and target."""

MAX_VALIDATION_ROWS: Final = 600

THREADS: Final = 2
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results of work on every item, in their order, computed by two threads.

    Matrix products release the interpreter's lock. Two threads that each have one product to
    themselves are faster than two that share one, and never wait for each other on a busy machine.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, items)


def ignore_progress(done: int, total: int) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationSet:
    """Test rows that pairs are measured on, their labels, and heads fitted on other rows.

    Attributes:
        rows: By space: (n, d) float32 test rows.
        labels: (n,) int64 labels, or None.
        heads: By space and kind; empty where there are no labels.
        gallery_size: How many of the first rows an item is searched among.
    """

    rows: Mapping[str, Floats]
    labels: Labels | None
    heads: Mapping[str, Mapping[str, ProbeHead]]
    gallery_size: int
    _galleries: WeakKeyDictionary[DrawnSpace, Gallery] = field(default_factory=WeakKeyDictionary)
    _neighbours: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def native_accuracies(self) -> dict[str, dict[str, float]]:
        """By space and kind of head: accuracy of the space's heads on its own rows."""
        if self.labels is None:
            return {}
        labels = self.labels
        return {
            space: {kind: head.accuracy(self.rows[space], labels) for kind, head in heads.items()}
            for space, heads in self.heads.items()
        }

    def measure(
        self, x: str, y: str, target: DrawnSpace, translate: RowTranslator
    ) -> dict[str, float]:
        """`measure_rows` of the rows of x, translated to y, and the overlaps of moved stores."""
        rows = translate(self.rows[x])
        return self.measure_rows(y, target, rows) | self.measure_move(x, y, rows)

    def measure_move(self, x: str, y: str, rows: Floats) -> dict[str, float]:
        """`measures.store_overlaps` of the rows of x, translated to y (n, d_Y)."""
        size = self.gallery_size
        overlaps = store_overlaps(
            rows[:size], self.rows[y][:size], self._store_neighbours(x), self._store_neighbours(y)
        )
        return {name: round(value, 6) for name, value in overlaps._asdict().items()}

    def measure_rows(self, y: str, target: DrawnSpace, rows: Floats) -> dict[str, float]:
        """Measures of translated rows.

        Args:
            y: The target.
            target: The target on its anchors.
            rows: (n, d_Y) the test rows, translated.

        Returns:
            Accuracy by kind of head where there are labels; `recall1`, `recall10` and
            `overlap10`; `similarity` about the origin and `centred` about the anchors' mean.
        """
        true = self.rows[y]
        measures = {}
        if self.labels is not None:
            heads = self.heads[y]
            measures = {kind: head.accuracy(rows, self.labels) for kind, head in heads.items()}
        measures |= self._gallery(y, target).retrieval(rows[: self.gallery_size])._asdict()
        measures["similarity"] = cosines(rows, true)
        measures["centred"] = cosines(rows, true, np.asarray(target.frame.mean))
        return {name: round(value, 6) for name, value in measures.items()}

    def measure_comparison(
        self, x: str, y: str, target: DrawnSpace, queries: Floats, database: Floats
    ) -> dict[str, float]:
        """Measures of what another program makes of a source's rows and of the target's.

        Args:
            x: The source.
            y: The target.
            target: The target on its anchors.
            queries: (n, m) the test rows of a source.
            database: (n, m) those of the target; unchanged, where the program translates.

        Returns:
            As `measure`; only retrieval and the cosine about the origin where the rows are in
            no space that has heads.
        """
        if database.shape == self.rows[y].shape and np.array_equal(database, self.rows[y]):
            return self.measure_rows(y, target, queries) | self.measure_move(x, y, queries)
        size, origin = self.gallery_size, np.zeros(database.shape[1], np.float32)
        measures = Gallery(database[:size], origin).retrieval(queries[:size])._asdict()
        measures["similarity"] = cosines(queries, database)
        return {name: round(value, 6) for name, value in measures.items()}

    def selection_score(self, y: str, target: DrawnSpace, rows: Floats) -> float:
        """Accuracy of the linear head on rows translated to y; recall@1 without labels."""
        if self.labels is not None:
            return self.heads[y]["linear"].accuracy(rows, self.labels)
        return self._gallery(y, target).retrieval(rows[: self.gallery_size]).recall1

    def _store_neighbours(self, space: str) -> NDArray[np.bool_]:
        """The nearest other rows of a space's own rows, computed once."""
        if space not in self._neighbours:
            self._neighbours[space] = store_neighbours(self.rows[space][: self.gallery_size])
        return self._neighbours[space]

    def _gallery(self, y: str, target: DrawnSpace) -> Gallery:
        """The target's own rows, prepared once for all searches among them."""
        gallery = self._galleries.get(target)
        if gallery is None:
            gallery = Gallery(self.rows[y][: self.gallery_size], target.frame.mean)
            self._galleries[target] = gallery
        return gallery


@dataclass(frozen=True, eq=False)
class Study:
    """A data set and the settings of its experiments; what experiments share is computed once.

    Raises:
        InvalidInputError: If there are fewer than two spaces.
    """

    embedded: EmbeddedCorpus
    settings: ExperimentSettings

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
        """Numbers of anchors in the settings that the data allows."""
        return self.settings.sizes(len(self.embedded.train))

    @cached_property
    def evaluation_set(self) -> EvaluationSet:
        """The test rows, with heads of both kinds fitted on training rows."""
        rng = np.random.default_rng(self.settings.seed)
        train = rng.permutation(self.embedded.train)[: self.settings.max_head_rows]
        test = rng.permutation(self.embedded.test)[: self.settings.max_test_rows]
        return self._evaluation_set(train, test, KINDS)

    @cached_property
    def validation_set(self) -> tuple[EvaluationSet, NDArray[np.int64]]:
        """Some training rows, with heads fitted on the other training rows, and those others."""
        settings = self.settings
        order = np.random.default_rng((settings.seed, 1)).permutation(self.embedded.train)
        size = max(1, min(int(settings.validation_share * len(order)), MAX_VALIDATION_ROWS))
        rest = order[size:]
        train = rest[: settings.max_head_rows]
        return self._evaluation_set(train, order[:size], ("linear",)), rest

    def draw(self, k: int, number: int) -> dict[str, DrawnSpace]:
        """Every space on the same k training rows, of one draw."""
        indices = draw_anchors(self.embedded.train, k, self.settings.seed, number)
        return {space: DrawnSpace(rows[indices]) for space, rows in self.embedded.rows.items()}

    def choose_irp_settings(self, k: int) -> ChosenSettings:
        """The δ and ω of `irp` that are best for each pair on the validation rows.

        Anchors are a draw of the other training rows; best is the accuracy of the linear head, or
        recall@1 where there are no labels. Test rows are not used.
        """
        validation, rest = self.validation_set
        settings = self.settings
        indices = draw_anchors(rest, min(k, len(rest)), settings.seed, settings.draws)
        drawn = {space: DrawnSpace(rows[indices]) for space, rows in self.embedded.rows.items()}
        # Not composed: for many settings on few rows, two products with few anchors are cheaper.
        cosines_of = {
            x: relative_representation(validation.rows[x], space.frame)
            for x, space in drawn.items()
        }

        def best(y: str) -> ChosenSettings:
            target, chosen = drawn[y], ChosenSettings()
            inverses = target.pruner.sweep(settings.deltas, settings.omegas)
            for x in drawn:
                if x == y:
                    continue
                scores = {
                    setting: validation.selection_score(
                        y, target, irp_rows(cosines_of[x], target, inverse)
                    )
                    for setting, inverse in inverses.items()
                }
                chosen[x, y] = max(scores, key=lambda setting: scores[setting])
            return chosen

        return {
            pair: setting
            for chosen in map_in_threads(best, drawn)
            for pair, setting in chosen.items()
        }

    def _evaluation_set(
        self, train: NDArray[np.int64], test: NDArray[np.int64], kinds: Sequence[str]
    ) -> EvaluationSet:
        embedded, heads = self.embedded, dict[str, Mapping[str, ProbeHead]]()
        labels = None if embedded.labels is None else embedded.labels[test]
        if labels is not None:
            seed = self.settings.seed
            heads = {
                space: fit_probe_heads(embedded, space, train, kinds, seed) for space in self.spaces
            }
        rows = {space: rows[test] for space, rows in embedded.rows.items()}
        return EvaluationSet(rows, labels, heads, self.settings.gallery_size)
