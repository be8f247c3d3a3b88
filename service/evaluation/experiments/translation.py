"""Every ordered pair of spaces through every method: accuracy, retrieval, similarity.

The main table, retrieval, and the cross-lingual and cross-modal ones are views of this.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.client import Floats
from service.errors import InvalidInput
from service.evaluation.embedded import Embedded
from service.evaluation.experiments.measures import Labels, cosines, retrieval
from service.evaluation.experiments.methods import (
    IRP_BEST,
    METHODS,
    Fitted,
    Peer,
    Translate,
    draw,
    method,
    pairs,
    through,
)
from service.evaluation.experiments.probes import KINDS, Head, heads
from service.evaluation.experiments.pruning import Pruned, Setting, sweep
from service.evaluation.experiments.settings import Settings

Record = dict[str, Any]
Told = Callable[[int, int], None]
"""Called with steps done and steps in all."""
NONE: Final[Mapping[str, Peer]] = {}


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

    def native(self) -> dict[str, dict[str, float]]:
        """By space and kind of head: accuracy of its own heads on its own rows."""
        if self.labels is None:
            return {}
        return {
            space: {kind: head.accuracy(self.rows[space], self.labels) for kind, head in own.items()}
            for space, own in self.heads.items()
        }

    def measure(self, x: str, y: str, fitted: Fitted, translate: Translate) -> dict[str, float]:
        """What comes of rows of x translated to y.

        Args:
            x: The source.
            y: The target.
            fitted: The target on its anchors.
            translate: The way.

        Returns:
            `linear` and `mlp` accuracy where there are labels; `recall1`, `recall10` and
            `overlap10`; `similarity` about the origin and `centred` about the anchors' mean.
        """
        found, true = translate(self.rows[x]), self.rows[y]
        told = {}
        if self.labels is not None:
            told = {kind: head.accuracy(found, self.labels) for kind, head in self.heads[y].items()}
        near = slice(self.gallery)
        told |= retrieval(found[near], true[near], fitted.seen)._asdict()
        told["similarity"] = cosines(found, true)
        told["centred"] = cosines(found, true, np.asarray(fitted.seen.mean))
        return {name: round(value, 6) for name, value in told.items()}

    def score(self, x: str, y: str, fitted: Fitted, translate: Translate) -> float:
        """Accuracy of the linear head on rows of x translated to y; recall@1 without labels."""
        found = translate(self.rows[x])
        if self.labels is not None:
            return self.heads[y]["linear"].accuracy(found, self.labels)
        near = slice(self.gallery)
        return retrieval(found[near], self.rows[y][near], fitted.seen).recall1


def bench(
    embedded: Embedded, settings: Settings, *, kinds: Sequence[str] = KINDS
) -> Bench:
    """Heads fitted on training rows, and held-out rows, in the caps of the settings."""
    rng = np.random.default_rng(settings.seed)
    train = rng.permutation(embedded.train)[: settings.head_rows]
    test = rng.permutation(embedded.test)[: settings.test_rows]
    return _bench(embedded, settings, train, test, kinds)


def _bench(
    embedded: Embedded,
    settings: Settings,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    kinds: Sequence[str],
) -> Bench:
    own: dict[str, Mapping[str, Head]] = {}
    if embedded.labels is not None:
        own = {s: heads(embedded, s, train, kinds, settings.seed) for s in embedded.rows}
    labels = None if embedded.labels is None else embedded.labels[test]
    rows = {space: rows[test] for space, rows in embedded.rows.items()}
    return Bench(rows, labels, own, settings.gallery)


def translation(
    embedded: Embedded,
    settings: Settings,
    *,
    peers: Mapping[str, Peer] = NONE,
    progress: Told = quietly,
) -> Record:
    """All pairs, numbers of anchors, draws and methods.

    Args:
        embedded: The data set; without labels no accuracy is measured.
        settings: What to do.
        peers: Other programs, measured at the first draw of each size.
        progress: Told of each pair at each draw.

    Returns:
        `native` accuracies, `records` of one measurement each, and the δ and ω `chosen` for
        `irp` on validation rows, by number of anchors, source and target.
    """
    spaces = list(embedded.rows)
    if len(spaces) < 2:
        raise InvalidInput(f"{embedded.name}: expected at least 2 spaces, got {len(spaces)}")
    on = bench(embedded, settings)
    sizes = settings.sizes(len(embedded.train))
    few = [k for k in settings.few if k < sizes[0]]
    todo = [(k, i) for k in sizes for i in range(settings.draws)] + [(k, 0) for k in few]
    each = len(spaces) * (len(spaces) - 1)
    done, total = 0, each * len(todo)
    records: list[Record] = []
    chosen: dict[int, dict[tuple[str, str], Setting]] = {}
    valid, remaining = _validation(embedded, settings)
    for k, number in todo:
        if k not in chosen:
            chosen[k] = choose(embedded, settings, valid, remaining, k)
        at = draw(embedded.train, k, settings.seed, number)
        others = peers if number == 0 and k in sizes else NONE
        for found in _draw(embedded, on, at, chosen[k], others):
            records += [{"k": k, "draw": number, **one} for one in found]
            done += 1
            progress(done, total)
    return {
        "native": on.native(),
        "spaces": spaces,
        "sizes": sizes,
        "chosen": [
            {"k": k, "source": x, "target": y, **setting._asdict()}
            for k, of_pair in chosen.items()
            for (x, y), setting in of_pair.items()
        ],
        "records": records,
    }


def _draw(
    embedded: Embedded,
    on: Bench,
    at: NDArray[np.int64],
    chosen: Mapping[tuple[str, str], Setting],
    peers: Mapping[str, Peer],
) -> Iterator[list[Record]]:
    """The records of each pair on one draw of anchors."""
    fitted = {space: Fitted(rows[at]) for space, rows in embedded.rows.items()}
    writes: dict[Setting, Pruned] = {}
    target = ""
    for x, y in pairs(list(fitted)):
        if y != target:
            wanted = {setting for (_, to), setting in chosen.items() if to == y}
            writes, target = _writes(fitted[y], wanted), y
        source, own = fitted[x], fitted[y]

        def told(name: str, translate: Translate, x: str = x, y: str = y) -> Record:
            measured = on.measure(x, y, fitted[y], translate)
            return {"source": x, "target": y, "method": name, **measured}

        found = [told(name, method(name, source, own)) for name in METHODS]
        found.append(told(IRP_BEST, through(source, own, writes[chosen[x, y]].write)))
        for name, peer in peers.items():
            found.append(told(name, lambda rows, peer=peer: peer(source.anchors, own.anchors, rows)))
        yield found


def _writes(target: Fitted, wanted: set[Setting]) -> dict[Setting, Pruned]:
    deltas, omegas = {s.delta for s in wanted}, {s.omega for s in wanted}
    return sweep(target.seen, sorted(deltas), sorted(omegas))


def _validation(
    embedded: Embedded, settings: Settings
) -> tuple[Bench, NDArray[np.int64]]:
    """A bench of rows taken from train with heads fitted on the rest, and that rest."""
    order = np.random.default_rng((settings.seed, 1)).permutation(embedded.train)
    held = max(1, min(int(settings.validation * len(order)), settings.test_rows))
    valid, remaining = order[:held], order[held:]
    on = _bench(embedded, settings, remaining[: settings.head_rows], valid, ("linear",))
    return on, remaining


def choose(
    embedded: Embedded,
    settings: Settings,
    on: Bench,
    remaining: NDArray[np.int64],
    k: int,
) -> dict[tuple[str, str], Setting]:
    """The δ and ω of `irp` that are best for each pair on the validation rows.

    Anchors are a draw of the training rows that are left; best is the accuracy of the linear
    head, or recall@1 where there are no labels. Test rows are not looked at.
    """
    at = draw(remaining, min(k, len(remaining)), settings.seed, settings.draws)
    fitted = {space: Fitted(rows[at]) for space, rows in embedded.rows.items()}
    found = {}
    for y, target in fitted.items():
        writes = sweep(target.seen, settings.deltas, settings.omegas)
        for x, source in fitted.items():
            if x == y:
                continue
            scores = {
                setting: on.score(x, y, target, through(source, target, pruned.write))
                for setting, pruned in writes.items()
            }
            found[x, y] = max(scores, key=lambda setting: scores[setting])
    return found
