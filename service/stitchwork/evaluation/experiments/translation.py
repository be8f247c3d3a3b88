"""Every ordered pair of spaces through every method: accuracy, retrieval, similarity.

The main table, retrieval and the cross-lingual table are views of this.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from stitchwork.evaluation.experiments.methods import METHODS, Fitted, Peer, method, pairs
from stitchwork.evaluation.experiments.study import (
    Bench,
    Chosen,
    Record,
    Study,
    Told,
    quietly,
    side_by_side,
)

NO_PEERS: Final[Mapping[str, Peer]] = {}


def translation(
    study: Study, *, peers: Mapping[str, Peer] = NO_PEERS, progress: Told = quietly
) -> Record:
    """All pairs, numbers of anchors, draws and methods.

    Args:
        study: The data set; without labels no accuracy is measured.
        peers: Other programs, measured at the first draw of each size; one that only compares
            gets no accuracy.
        progress: Told of each pair at each draw.

    Returns:
        `native` accuracies, the `sizes` that tables show, `records` of one measurement each, and
        the δ and ω `chosen` for `irp` on validation rows, by number of anchors, source and target.
    """
    settings, sizes = study.settings, study.sizes
    todo = [(k, 0) for k in settings.few if k < sizes[0]]
    todo += [(k, number) for k in sizes for number in range(settings.draws)]
    each = len(pairs(study.spaces))
    done, records = 0, list[Record]()
    chosen: dict[int, Chosen] = {}
    progress(0, each * len(todo))
    for k, number in todo:
        if k not in chosen:
            chosen[k] = study.choose(k)
        others = peers if number == 0 and k in sizes else NO_PEERS
        for found in _draw(study.bench, study.anchors(k, number), chosen[k], others):
            records += [{"k": k, "draw": number, **one} for one in found]
            done += 1
            progress(done, each * len(todo))
    return {
        "native": study.bench.native(),
        "sizes": sizes,
        "chosen": [
            {"k": k, "source": x, "target": y, **setting._asdict()}
            for k, of_pair in chosen.items()
            for (x, y), setting in of_pair.items()
        ],
        "records": records,
    }


def _draw(
    on: Bench, fitted: Mapping[str, Fitted], chosen: Chosen, peers: Mapping[str, Peer]
) -> Iterator[list[Record]]:
    """The records of each pair on one draw of anchors."""

    def prepare(space: str) -> None:
        """Everything that pairs share, so that no two threads compute it."""
        own = fitted[space]
        # Together, they share the traversals of the least δ.
        own.irp({setting for (_, to), setting in chosen.items() if to == space})
        own.prepare()

    def measured(pair: tuple[str, str]) -> list[Record]:
        x, y = pair
        source, target = fitted[x], fitted[y]
        found = {
            name: on.measure(x, y, target, method(name, source, target, chosen[x, y]))
            for name in METHODS
        }
        for name, peer in peers.items():
            compared = peer(source.anchors, target.anchors, on.rows[x], on.rows[y])
            found[name] = on.compared(y, target, *compared)
        return [{"source": x, "target": y, "method": name, **one} for name, one in found.items()]

    for _ in side_by_side(prepare, fitted):
        pass
    ordered = pairs(list(fitted))
    # A peer is one program, which answers one question at a time.
    yield from map(measured, ordered) if peers else side_by_side(measured, ordered)
