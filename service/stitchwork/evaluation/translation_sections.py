"""Sections of the report on translation between spaces: stitching, retrieval, modalities."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from stitchwork.evaluation.experiments.methods import ABSOLUTE, IRP_BEST, PROCRUSTES
from stitchwork.evaluation.experiments.probes import KINDS
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.markdown import format_number, table
from stitchwork.evaluation.peers import UNCENTRED
from stitchwork.evaluation.summary import (
    BASELINES,
    compare_with_default,
    cross_language_records,
    format_mean,
    format_native,
    mean_of,
    mean_over_pairs,
    method_label,
    methods,
    select,
    share_of_weaker,
    text_views,
    values,
)
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

OVERVIEW_COLUMNS: Final = (
    "data",
    "k",
    f"{DEFAULT_BRIDGE}, linear",
    "native, linear",
    "share, linear",
    "share, MLP",
    "linear vs ridge GCV",
    "MLP vs ridge GCV",
    "recall@1 vs Procrustes",
    "linear vs irp at its best",
)


def overview_rows(data: Record) -> list[Sequence[Any]]:
    """One row of `OVERVIEW_COLUMNS` for each number of anchors, without the data set's name."""
    result = data["experiments"]["translation"]
    native = result["native"]
    rows: list[Sequence[Any]] = []
    for k in result["sizes"]:
        records = select(result["records"], k=k)
        default = select(records, method=DEFAULT_BRIDGE)
        row: list[Any] = [k]
        if native:
            row += [mean_of(default, "linear"), format_native(native, "linear")]
            row += [
                format_mean(mean_over_pairs(default, share_of_weaker(native, kind)))
                for kind in KINDS
            ]
        else:
            row += [None] * 4
        for measure, baseline in BASELINES:
            row.append(
                compare_with_default(records, baseline, measure) if measure in records[0] else None
            )
        rows.append(row)
    return rows


def stitching(data: Record) -> str:
    """Accuracy and share of native accuracy by method and number of anchors, for both heads."""
    result = data["experiments"]["translation"]
    native, records = result["native"], result["records"]
    if not native:
        return ""
    parts = []
    for kind in KINDS:
        counts = result["sizes"]
        titles = ["method", *(f"k = {k:,}" for k in counts), *(f"share, k = {k:,}" for k in counts)]
        rows = []
        for name in methods(records):
            by_count = [select(records, k=k, method=name) for k in counts]
            if not any(kind in record for selected in by_count for record in selected):
                continue
            share = share_of_weaker(native, kind)
            shares = [format_mean(mean_over_pairs(selected, share)) for selected in by_count]
            means = [mean_of(selected, kind) for selected in by_count]
            rows.append([method_label(name), *means, *shares])
        rows.append(["native", *[format_native(native, kind)] * len(counts), *[""] * len(counts)])
        heads = "Linear heads" if kind == "linear" else "MLP heads"
        parts.append(f"{heads}; share is relative to the lower of the two native accuracies.")
        parts.append(table(titles, rows))
    of_spaces = [
        [space, *(format_number(accuracies[kind]) for kind in KINDS)]
        for space, accuracies in native.items()
    ]
    parts.append(table(["native accuracy of", *KINDS], of_spaces))
    parts.append(_chosen_settings(result["chosen"], counts))
    return "\n\n".join(parts)


def retrieval(data: Record) -> str:
    """Retrieval of the own item among test rows, by method and number of anchors."""
    result = data["experiments"]["translation"]
    records, counts = result["records"], result["sizes"]
    measures = ("recall1", "recall10", "overlap10", "centred")
    names = ("recall@1", "recall@10", "overlap@10", "cosine")
    titles = ["method", *(f"{name}, k = {k:,}" for k in counts for name in names)]
    rows = []
    for name in methods(records):
        line: list[Any] = [method_label(name)]
        for k in counts:
            selected = select(records, k=k, method=name)
            line += [format_mean(mean_of(selected, measure)) for measure in measures]
        rows.append(line)
    return table(titles, rows) + (
        "\n\nCosine is between translated and true rows, about the anchors' mean; overlap is that "
        "of the ten nearest test rows."
    )


def moves(data: Record) -> str:
    """Moved stores: overlaps of the ten nearest rows, by method and number of anchors."""
    result = data["experiments"]["translation"]
    counts, names = result["sizes"], ("mq", "ms", "mqx")
    titles = ["method", *(f"{name}, k = {k:,}" for k in counts for name in names)]
    rows = []
    for method in methods(result["records"]):
        line: list[Any] = [method_label(method)]
        for k in counts:
            selected = select(result["records"], k=k, method=method)
            line += [format_mean(mean_of(selected, name)) for name in names]
        rows.append(line)
    return table(titles, rows)


def relevance(data: Record) -> str:
    """Moved stores of judged documents: nDCG@10 as a share of embedding anew, and overlaps."""
    result = data["experiments"]["relevance"]
    measures = ("store_share", "query_share", "ms", "mq", "mqx")
    titles = ["k", "pair", "method", "nDCG@10, moved store", "share", "share, moved queries"]
    rows = []
    for k in result["sizes"]:
        records = select(result["records"], k=k)
        for x, y in dict.fromkeys((r["source"], r["target"]) for r in records):
            of_pair = select(records, source=x, target=y)
            for method in methods(of_pair):
                selected = select(of_pair, method=method)
                means = [
                    format_number(float(np.mean(values(selected, name))))
                    for name in ("store_ndcg10", *measures)
                ]
                rows.append([k, f"{x} → {y}", method_label(method), *means])
    native = ", ".join(
        f"{space} {np.mean(values(select(result['native'], space=space), 'ndcg10')):.3f}"
        for space in data["spaces"]
    )
    draws = len({record["draw"] for record in result["records"]})
    return (
        f"Each of {draws} draws searches {result['documents']:,} documents and takes its anchors "
        f"from the others. nDCG@10 of each model with its own store: {native}. *Share* is relative "
        "to embedding anew with the new model. For a moved store that is the target; for moved "
        "queries, which search the old store, it is the source.\n\n"
    ) + table([*titles, "ms", "mq", "mqx"], rows)


def languages(data: Record) -> str:
    """Parallel texts of different languages, before and after translation."""
    if len(text_views(data["spaces"])) < 2:
        return ""
    texts = {space for space, facts in data["spaces"].items() if facts["modality"] == "text"}
    records = [r for r in cross_language_records(data) if {r["source"], r["target"]} <= texts]
    k = max(data["experiments"]["translation"]["sizes"])
    orthogonal = [name for name in (PROCRUSTES, UNCENTRED) if name in methods(records)]
    rows = []
    pairs = sorted({(r["source"], r["target"]) for r in records})
    for x, y in pairs:
        before = select(records, k=k, source=x, target=y, method=ABSOLUTE)
        after = select(records, k=k, source=x, target=y, method=DEFAULT_BRIDGE)
        irp = select(records, k=k, source=x, target=y, method="irp")
        same = data["spaces"][x]["width"] == data["spaces"][y]["width"]
        line: list[Any] = [f"{x} → {y}"]
        for measure in ("similarity", "recall1"):
            line.append(format_mean(mean_of(before, measure)) if same else None)
            line += [format_mean(mean_of(selected, measure)) for selected in (irp, after)]
        for name in orthogonal:
            measured = select(records, k=k, source=x, target=y, method=name)
            line.append(format_mean(mean_of(measured, "recall1")))
        rows.append(line)
    titles = [
        f"{m}, {w}" for m in ("cosine", "recall@1") for w in (ABSOLUTE, "irp", DEFAULT_BRIDGE)
    ]
    titles += [f"recall@1, {name}" for name in orthogonal]
    return f"{k:,} anchors; cosine about the origin.\n\n" + table(["pair", *titles], rows)


def modalities(data: Record) -> str:
    """Both directions across modalities, with and without controls."""
    result = data["experiments"]["modalities"]
    modality, rows = result["modality"], []
    titles = ["control", "direction", "method", "linear", "MLP", "recall@1", "recall@10"]
    for control, condition in result["conditions"].items():
        records = select(result["records"], control=control)
        for direction in sorted({_direction(modality, record) for record in records}):
            of_direction = [r for r in records if _direction(modality, r) == direction]
            for name in methods(of_direction):
                selected = select(of_direction, method=name)
                line = [mean_of(selected, m) if m in selected[0] else None for m in KINDS]
                line += [mean_of(selected, m) for m in ("recall1", "recall10")]
                rows.append([control, " → ".join(direction), method_label(name), *line])
        chance, native = condition["chance"], condition["native"]
        levels = (chance["largest class"], None, chance["recall1"], chance["recall10"])
        formatted = [None if level is None else format_number(level) for level in levels]
        rows.append([control, "", "chance", *formatted])
        if native:
            rows.append(
                [control, "", "native", *(format_native(native, kind) for kind in KINDS), "", ""]
            )
    sizes = "; ".join(
        f"{name}: {condition['k']:,} anchors, {condition['rows']:,} test rows"
        for name, condition in result["conditions"].items()
    )
    return f"{sizes}.\n\n" + table(titles, rows)


def _chosen_settings(chosen: Sequence[Record], counts: Sequence[int]) -> str:
    k = max(counts)
    listed = ", ".join(
        f"{c['source']} → {c['target']} {c['delta']:g}/{c['omega']}" for c in select(chosen, k=k)
    )
    return f"δ/ω chosen for {IRP_BEST} at k = {k:,}: {listed}."


def _direction(modality: Mapping[str, str], record: Record) -> tuple[str, str]:
    return modality[record["source"]], modality[record["target"]]
