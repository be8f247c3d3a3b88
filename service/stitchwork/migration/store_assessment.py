"""Assesses a store: samples it, embeds the texts of the sample, and predicts what a move gives."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.diagnostics.recall_prediction import MIN_ROWS
from stitchwork.migration.advice import Advice, StoreFacts, advise, advise_small
from stitchwork.migration.assessment import (
    Assessment,
    EmbeddedPairs,
    PairTranslations,
    assess,
)
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.row_texts import TextReader
from stitchwork.migration.store import VectorStore
from stitchwork.migration.store_anchors import anchor_ids
from stitchwork.migration.store_sample import (
    StoreSample,
    measure_rate,
    read_rows,
    read_sample,
)
from stitchwork.resources.anchor_count import anchor_count_warnings

if TYPE_CHECKING:
    from stitchwork.client import Stitchwork

SAMPLE_ROWS: Final = 2000
MIN_SAME_COSINE: Final = 0.999
"""A row that a move wrote has at least this cosine with its translation, also in float16."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AssessmentOptions:
    """How a store is assessed.

    Attributes:
        source: Id of the space of its vectors.
        target: Id of the space of the new model.
        bridge: Default: the service's.
        sample_rows: Rows to sample.
        queries: Texts to search for; default: the texts of the sample.
        query_type: Prompt of the new model for the queries, as `input_type` of `embed`.
        seed: Of the sample.
    """

    source: str
    target: str
    bridge: str | None = None
    sample_rows: int = SAMPLE_ROWS
    queries: Sequence[str] | None = None
    query_type: str | None = None
    seed: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class StoreAssessment:
    """What is known of a store.

    Attributes:
        fields: Figures by their names.
        facts: What the advice depends on beside the assessment.
        assessment: The assessment; None where there are no texts, or fewer than 100 rows.
        advice: The advice; None where there are no texts.
        warnings: What is doubtful.
    """

    fields: dict[str, Any]
    facts: StoreFacts
    assessment: Assessment | None
    advice: Advice | None
    warnings: tuple[str, ...]


def assess_store(
    client: "Stitchwork",
    store: VectorStore,
    texts: TextReader,
    options: AssessmentOptions,
    moved: VectorStore | None = None,
) -> StoreAssessment:
    """Assess a store before it is moved or, with the store that was written, afterwards.

    Args:
        client: A client of the service, which embeds the texts.
        store: The store.
        texts: Reads the texts of its rows.
        options: Spaces, bridge and sample.
        moved: The store that a move has written: its rows are judged in place of translations.

    Raises:
        InvalidInputError: If the store has vectors of another width than the space, or too few.
        ConflictError: If the moved store lacks all rows of the sample.
    """
    forward = OfflineMap.fetch(client, options.source, options.target, options.bridge)
    width = store.dimension()
    if width != forward.source_width:
        raise InvalidInputError(
            f"{store.name}: expected vectors of {forward.source_width} numbers, which the space "
            f"{options.source} has, got {width}: the store is of another model"
        )
    sample = read_sample(store, options.sample_rows, options.seed, texts)
    covered = forward.apply(sample.vectors).covered
    lengths = forward.length_report(sample.vectors)
    anchors = int(client.get("spaces", options.source)["size"])
    fields: dict[str, Any] = {
        "store": store.name,
        "rows": sample.rows,
        "sample": len(sample.ids),
        "without_valid_vector": sample.invalid,
        "uncovered_share": round(1 - float(covered.mean()), 4),
        "mismatched_lengths": lengths.mismatched,
        "anchors": anchors,
        **forward.versions._asdict(),
        "translated_rows_per_second": round(measure_rate(store, forward.apply), 1),
    }
    warnings = (*lengths.warnings, *anchor_count_warnings(anchors))
    paired = sample.with_texts()
    fields["with_text"] = len(paired.ids)
    rows = None
    if moved is not None:
        paired, rows = _moved_rows(moved, paired, forward, fields)
    start = time.perf_counter()
    new = client.embed(options.target, paired.available_texts()) if paired.ids else None
    embed_rate = len(paired.ids) / max(time.perf_counter() - start, 1e-9)
    facts = StoreFacts(
        sample.rows,
        len(sample.ids) + sample.invalid,
        options.source,
        options.target,
        anchors,
        fields["uncovered_share"],
        fields["translated_rows_per_second"],
        embed_rate,
        is_moved=moved is not None,
    )
    if new is None:
        return StoreAssessment(fields, facts, None, None, warnings)
    fields["embedded_texts_per_second"] = round(embed_rate, 1)
    if sample.rows < MIN_ROWS:
        return StoreAssessment(fields, facts, None, advise_small(facts), warnings)
    known = anchor_ids(client, options.source)
    is_anchor = np.array([str(id_) in known for id_ in paired.ids])
    pairs = EmbeddedPairs(paired.vectors, np.asarray(new, np.float32), is_anchor)
    backward = OfflineMap.fetch(client, options.target, options.source, options.bridge)
    translations = _translations(client, pairs, forward, backward, rows, options)
    bridge = cast(BridgeName, forward.versions.bridge)
    assessment = assess(pairs, translations, sample.rows, bridge)
    advice = advise(assessment, facts)
    fields |= _figures(assessment)
    return StoreAssessment(fields, facts, assessment, advice, warnings)


def _moved_rows(
    moved: VectorStore, sample: StoreSample, forward: OfflineMap, fields: dict[str, Any]
) -> tuple[StoreSample, Floats]:
    """The rows of the sample that were written, and their vectors in the moved store."""
    written = read_rows(moved, sample.ids)
    present = [i for i, id_ in enumerate(sample.ids) if str(id_) in written]
    if not present:
        raise ConflictError(f"{moved.name} has none of the {len(sample.ids)} sampled rows")
    chosen = sample.select(present)
    rows = np.stack([written[str(id_)] for id_ in chosen.ids])
    if rows.shape[1] != forward.target_width:
        raise InvalidInputError(
            f"{moved.name}: expected vectors of {forward.target_width} numbers, got {rows.shape[1]}"
        )
    expected = forward.apply(chosen.vectors).rows
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
    same = np.vecdot(rows, expected) >= MIN_SAME_COSINE * norms
    fields["moved_store"] = moved.name
    fields["moved_rows"] = moved.count()
    fields["sampled_rows_not_moved"] = len(sample.ids) - len(present)
    fields["other_than_translated_share"] = round(1 - float(same.mean()), 4)
    return chosen, rows


def _translations(
    client: "Stitchwork",
    pairs: EmbeddedPairs,
    forward: OfflineMap,
    backward: OfflineMap,
    rows: Floats | None,
    options: AssessmentOptions,
) -> PairTranslations:
    own = np.flatnonzero(~pairs.anchors)
    queries = pairs.new[own]
    if options.queries is not None:
        inputs = list(options.queries)
        embedded = client.embed(options.target, inputs, input_type=options.query_type)
        queries, own = np.asarray(embedded, np.float32), np.full(len(inputs), -1)
    translated = forward.apply(pairs.old).rows if rows is None else rows
    return PairTranslations(translated, queries, backward.apply(queries).rows, own)


def _figures(assessment: Assessment) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "similarity": round(float(assessment.similarities.mean()), 4),
        "foreign_share": round(assessment.foreign_share, 4),
    }
    for name, prediction in (("queries", assessment.queries), ("store", assessment.store)):
        figures[f"recall_at_10_translated_{name}"] = round(prediction.recall, 4)
        interval = [round(prediction.low, 4), round(prediction.high, 4)]
        figures[f"recall_at_10_translated_{name}_interval"] = interval
    figures["recall_at_10_embedded_anew"] = 1.0
    figures["anchor_curve"] = [
        {"anchors": p.anchors, "queries": round(p.queries, 4), "store": round(p.store, 4)}
        for p in assessment.curve
    ]
    return figures
