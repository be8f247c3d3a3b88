"""Every ordered pair of spaces through every method: accuracy, retrieval, similarity.

The report's main table, retrieval and cross-lingual tables are computed from this.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from stitchwork.evaluation.experiments.methods import (
    METHODS,
    DrawnSpace,
    PeerFunction,
    method_translator,
    ordered_pairs,
)
from stitchwork.evaluation.experiments.study import (
    ChosenSettings,
    EvaluationSet,
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
    map_in_threads,
)

NO_PEERS: Final[Mapping[str, PeerFunction]] = {}


def translation(
    study: Study,
    *,
    peers: Mapping[str, PeerFunction] = NO_PEERS,
    progress: ProgressCallback = ignore_progress,
) -> Record:
    """All pairs, numbers of anchors, draws and methods.

    Args:
        study: The data set; without labels no accuracy is measured.
        peers: Other programs, measured at each of `sizes`; one that only compares rows has no
            accuracy.
        progress: Called for each pair at each draw.

    Returns:
        `native` accuracies, the `sizes` for tables, `records` of one measurement each, and the δ
        and ω `chosen` for `irp` on validation rows, by number of anchors, source and target.
    """
    settings, sizes = study.settings, study.sizes
    draws = [(k, 0) for k in settings.small_counts if k < sizes[0]]
    draws += [(k, number) for k in sizes for number in range(settings.draws)]
    pair_count = len(ordered_pairs(study.spaces))
    done, records = 0, list[Record]()
    chosen: dict[int, ChosenSettings] = {}
    progress(0, pair_count * len(draws))
    for k, number in draws:
        if k not in chosen:
            chosen[k] = study.choose_irp_settings(k)
        used_peers = peers if k in sizes else NO_PEERS
        drawn = study.draw(k, number)
        for measured in _measure_draw(study.evaluation_set, drawn, chosen[k], used_peers):
            records += [{"k": k, "draw": number, **record} for record in measured]
            done += 1
            progress(done, pair_count * len(draws))
    return {
        "native": study.evaluation_set.native_accuracies(),
        "sizes": sizes,
        "chosen": [
            {"k": k, "source": x, "target": y, **setting._asdict()}
            for k, of_pair in chosen.items()
            for (x, y), setting in of_pair.items()
        ],
        "records": records,
    }


def _measure_draw(
    test_set: EvaluationSet,
    drawn: Mapping[str, DrawnSpace],
    chosen: ChosenSettings,
    peers: Mapping[str, PeerFunction],
) -> Iterator[list[Record]]:
    """The records of each pair on one draw of anchors."""

    def prepare(space: str) -> None:
        """Compute everything that pairs share, so that no two threads compute it."""
        # Together, so that settings share the traversals of the smallest δ.
        drawn[space].irp_inverses(
            {setting for (_, target), setting in chosen.items() if target == space}
        )
        drawn[space].prepare()

    def measure(pair: tuple[str, str]) -> list[Record]:
        x, y = pair
        source, target = drawn[x], drawn[y]
        measures = {
            name: test_set.measure(
                x, y, target, method_translator(name, source, target, chosen[x, y])
            )
            for name in METHODS
        }
        for name, peer in peers.items():
            queries, database = peer(
                source.anchors, target.anchors, test_set.rows[x], test_set.rows[y]
            )
            measures[name] = test_set.measure_comparison(x, y, target, queries, database)
        return [
            {"source": x, "target": y, "method": name, **values}
            for name, values in measures.items()
        ]

    for _ in map_in_threads(prepare, drawn):
        pass
    pairs = ordered_pairs(list(drawn))
    # A peer is one process, which handles one request at a time.
    yield from map(measure, pairs) if peers else map_in_threads(measure, pairs)
