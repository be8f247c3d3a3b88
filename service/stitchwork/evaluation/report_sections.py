"""The sections of the report, each out of one data set's results."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from stitchwork.evaluation.experiments.methods import ABSOLUTE, IRP_BEST, PROCRUSTES, RIDGE_BOTH
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.markdown import ALPHA, interval, number, table
from stitchwork.evaluation.summary import (
    RIVALS,
    crossing,
    measured,
    methods,
    over_pairs,
    values,
    versus,
    weaker_share,
    where,
)
from stitchwork.evaluation.summary import languages as views
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

KINDS: Final = ("linear", "mlp")
CELLS: Final = (
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


def cells(data: Record) -> list[Sequence[Any]]:
    """One line for each number of anchors, without the name of the data set."""
    found = data["experiments"]["translation"]
    native = found["native"]
    lines: list[Sequence[Any]] = []
    for k in found["sizes"]:
        records = where(found["records"], k=k)
        ours = where(records, method=DEFAULT_BRIDGE)
        shown: list[Any] = [k]
        if native:
            shown += [measured(ours, "linear"), _native(native, "linear")]
            shown += [_mean(over_pairs(ours, weaker_share(native, kind))) for kind in KINDS]
        else:
            shown += [None] * 4
        for measure, other in RIVALS:
            shown.append(versus(records, other, measure) if measure in records[0] else None)
        lines.append(shown)
    return lines


def stitching(data: Record) -> str:
    """Accuracy by method and number of anchors, both heads, and the share of the weaker native."""
    found = data["experiments"]["translation"]
    native, records = found["native"], found["records"]
    if not native:
        return ""
    parts = []
    for kind in KINDS:
        counts = found["sizes"]
        head = ["method", *(f"k = {k:,}" for k in counts), *(f"share, k = {k:,}" for k in counts)]
        rows = []
        for name in methods(records):
            of = [where(records, k=k, method=name) for k in counts]
            if not any(kind in one for own in of for one in own):
                continue
            shares = [_mean(over_pairs(own, weaker_share(native, kind))) for own in of]
            rows.append([_named(name), *(measured(own, kind) for own in of), *shares])
        rows.append(["native", *[_native(native, kind)] * len(counts), *[""] * len(counts)])
        heads = "Linear heads" if kind == "linear" else "MLP heads"
        parts.append(f"{heads}; share is of the weaker of the two native accuracies.")
        parts.append(table(head, rows))
    own = [[space, *(number(of[kind]) for kind in KINDS)] for space, of in native.items()]
    parts.append(table(["native accuracy of", *KINDS], own))
    parts.append(_chosen(found["chosen"], counts))
    return "\n\n".join(parts)


def retrieval(data: Record) -> str:
    """Own item among the held-out rows, by method and number of anchors."""
    found = data["experiments"]["translation"]
    records, counts = found["records"], found["sizes"]
    measures = ("recall1", "recall10", "overlap10", "centred")
    titles = ("recall@1", "recall@10", "overlap@10", "cosine")
    head = ["method", *(f"{title}, k = {k:,}" for k in counts for title in titles)]
    rows = []
    for name in methods(records):
        line: list[Any] = [_named(name)]
        for k in counts:
            of = where(records, k=k, method=name)
            line += [_mean(measured(of, measure)) for measure in measures]
        rows.append(line)
    return table(head, rows) + (
        "\n\nCosine is between translated and true rows, about the anchors' mean; overlap is of "
        "the ten nearest held-out rows."
    )


def languages(data: Record) -> str:
    """Parallel texts of different languages, before and after translation."""
    if len(views(data["spaces"])) < 2:
        return ""
    texts = {s for s, about in data["spaces"].items() if about["modality"] == "text"}
    records = [r for r in crossing(data) if {r["source"], r["target"]} <= texts]
    k = max(data["experiments"]["translation"]["sizes"])
    rows = []
    pairs = sorted({(r["source"], r["target"]) for r in records})
    for x, y in pairs:
        before = where(records, k=k, source=x, target=y, method=ABSOLUTE)
        after = where(records, k=k, source=x, target=y, method=DEFAULT_BRIDGE)
        irp = where(records, k=k, source=x, target=y, method="irp")
        same = data["spaces"][x]["width"] == data["spaces"][y]["width"]
        line: list[Any] = [f"{x} → {y}"]
        for measure in ("similarity", "recall1"):
            line.append(_mean(measured(before, measure)) if same else None)
            line += [_mean(measured(of, measure)) for of in (irp, after)]
        rows.append(line)
    titles = [
        f"{m}, {w}" for m in ("cosine", "recall@1") for w in (ABSOLUTE, "irp", DEFAULT_BRIDGE)
    ]
    return f"{k:,} anchors; cosine about the origin.\n\n" + table(["pair", *titles], rows)


def modalities(data: Record) -> str:
    """Both ways across modalities, as they are and under controls."""
    found = data["experiments"]["modalities"]
    modality, rows = found["modality"], []
    head = ["control", "direction", "method", "linear", "MLP", "recall@1", "recall@10"]
    for control, about in found["conditions"].items():
        records = where(found["records"], control=control)
        for ways in sorted({(modality[r["source"]], modality[r["target"]]) for r in records}):
            of = [r for r in records if (modality[r["source"]], modality[r["target"]]) == ways]
            for name in methods(of):
                own = where(of, method=name)
                line = [measured(own, m) if m in own[0] else None for m in KINDS]
                line += [measured(own, m) for m in ("recall1", "recall10")]
                rows.append([control, " → ".join(ways), _named(name), *line])
        chance, native = about["chance"], about["native"]
        told = (chance["largest class"], None, chance["recall1"], chance["recall10"])
        rows.append([control, "", "chance", *(None if c is None else number(c) for c in told)])
        if native:
            rows.append([control, "", "native", *(_native(native, kind) for kind in KINDS), "", ""])
    sized = "; ".join(
        f"{name}: {about['k']:,} anchors, {about['rows']:,} rows held out"
        for name, about in found["conditions"].items()
    )
    return f"{sized}.\n\n" + table(head, rows)


def inversion(data: Record) -> str:
    """Mean similarity of each space with itself and with others after the way through anchors."""
    found = data["experiments"]["inversion"]
    rows = []
    for name in found["centred"]:
        line: list[Any] = [_named(name)]
        for measure in ("similarity", "centred"):
            matrix = np.array(found[measure][name])
            own = np.eye(len(matrix), dtype=bool)
            line += [number(float(matrix[own].mean())), number(float(matrix[~own].mean()))]
        rows.append(line)
    head = ["method", "cosine, own space", "cosine, others", "centred, own", "centred, others"]
    return f"{found['k']:,} anchors, one draw; held-out rows.\n\n" + table(head, rows)


def sensitivity(data: Record) -> str:
    """`irp` at every δ, for one subspace and for the most."""
    found = data["experiments"]["sensitivity"]
    records = found["records"]
    omegas = sorted({r["omega"] for r in records})
    rows = []
    for delta in sorted({r["delta"] for r in records}):
        for omega in (omegas[0], omegas[-1]):
            of = where(records, delta=delta, omega=omega)
            kept, condition = (number(float(np.mean(values(of, n))), 1) for n in FACTS)
            line = [measured(of, m) if m in of[0] else None for m in ("linear", *MEASURES)]
            rows.append([delta, omega, kept, condition, *line])
    head = ["δ", "ω", "anchors kept", "condition", "linear", "cosine", "centred", "recall@1"]
    return f"{found['k']:,} anchors, one draw.\n\n" + table(head, rows)


def whitening(data: Record) -> str:
    """Every power of the whitened write, by bridge and number of anchors."""
    found = data["experiments"]["whitening"]
    records, native = found["records"], found["native"]
    shown = [*KINDS, "recall1", "centred"]
    rows: list[Sequence[Any]] = []
    for k in sorted({r["k"] for r in records}):
        for name in methods(records):
            for power in sorted({r["power"] for r in records}):
                of = where(records, k=k, method=name, power=power)
                rows.append([k, name, power, *(measured(of, m) for m in shown if m in of[0])])
    titles = {"linear": "linear", "mlp": "MLP", "recall1": "recall@1", "centred": "centred"}
    head = ["k", "bridge", "b", *(titles[m] for m in shown if m in records[0])]
    told = ", ".join(f"{kind} {_native(native, kind)}" for kind in KINDS) if native else "no labels"
    return f"One draw of each number of anchors; native: {told}.\n\n" + table(head, rows)


def misaligned(data: Record) -> str:
    """Of swapped anchors, how many were named, and how many others."""
    found = data["experiments"]["misaligned"]
    rows: list[Sequence[Any]] = []
    for k in sorted({r["anchors"] for r in found["records"]}):
        for r in where(found["records"], anchors=k):
            shares = [number(r[name]) for name in ("precision", "recall")]
            clean = f"{r['false']} of {r['clean']:,}"
            rows.append([k, " and ".join(r["spaces"]), r["swapped"], *shares, clean])
    head = ["anchors", "spaces", "swapped", "precision", "recall", "named where none is"]
    told = f"{found['share']:.0%} of the anchors swapped in one of two spaces, near duplicates "
    return f"{told}left out; {len(found['seeds'])} draws.\n\n" + table(head, rows)


FACTS: Final = ("kept", "condition")
MEASURES: Final = ("similarity", "centred", "recall1")


def prediction(data: Record) -> str:
    """Correlations with accuracy, and what the paper says of them."""
    found = data["experiments"]["prediction"]
    within = [
        [name, interval(told["r"], told["low"], told["high"]), len(told["pairs"])]
        for name, told in found["within"].items()
    ]
    across = [
        [name, *(interval(of["r"], of["low"], of["high"]) for of in told.values())]
        for name, told in found["across"].items()
    ]
    return "\n\n".join(
        (
            "Within a pair: the mean r of the pairs, with its 95% interval over pairs.",
            table(["predictor of accuracy", "r", "pairs"], within),
            "Across pairs, at one setting: r with Fisher's 95% interval, which takes pairs as "
            "independent although they share spaces.",
            table(["predictor", "r with accuracy", "r with share of native"], across),
            "The paper holds that a high reconstruction similarity and a low condition number go "
            "with a high accuracy; these are the conditions under which it is so here.",
        )
    )


def confidence(data: Record) -> str:
    """What confidence is worth, native and stitched."""
    found = data["experiments"]["confidence"]
    measures = ("accuracy", "head", "target neighbours", "source neighbours")
    errors = ("error", "calibrated error")
    rows = [["native", *(_known(list(found["native"].values()), m) for m in measures[:2]), "", ""]]
    rows[0] += [_known(list(found["native"].values()), m) for m in errors]
    for name in dict.fromkeys(r["bridge"] for r in found["records"]):
        of = where(found["records"], bridge=name)
        rows.append([_named(name), *(_known(of, m) for m in (*measures, *errors))])
    head = ["", "accuracy", "AUROC: head", "AUROC: near target", "AUROC: near source"]
    pooled = found["reliability"]
    return table([*head, "ECE", "ECE calibrated"], rows) + (
        f"\n\n{found['k']:,} anchors, linear heads, means over pairs; AUROC is for the prediction "
        "being right. Calibration is fitted on half of the held-out rows and told of the other. "
        f"Over all {pooled['rows']:,} predictions of {DEFAULT_BRIDGE} together the calibration "
        "error is "
        f"{number(pooled['raw']['error'])}, calibrated {number(pooled['calibrated']['error'])}."
    )


def norms(data: Record) -> str:
    """How lengths are distributed."""
    rows = []
    for space, told in data["experiments"]["norms"]["spaces"].items():
        line = [space, number(told["mean"]), number(told["cv"])]
        if "p" in told:
            line += [number(told["skewness"], 2), number(told["kurtosis"], 2), f"{told['p']:.1e}"]
            line.append("no" if told["p"] < 0.05 else "not rejected")
        else:
            line += ["", "", "", "constant"]
        rows.append(line)
    head = ["space", "mean", "CV", "skewness", "excess kurtosis", "p", "normal at 5%"]
    return table(head, rows) + "\n\nD'Agostino and Pearson's test on the training rows."


def scale(data: Record) -> str:
    """Accuracy of small nets by the factor on their inputs, means over spaces."""
    records = data["experiments"]["scale"]["records"]
    alphas = sorted({r["alpha"] for r in records})
    rows = [
        [name, *(number(float(np.mean(values(where(of, alpha=a), "accuracy")))) for a in alphas)]
        for name in dict.fromkeys(r["activation"] for r in records)
        for of in [where(records, activation=name)]
    ]
    return table(["activation", *(f"{ALPHA} = {a:g}" for a in alphas)], rows) + (
        f"\n\nMLPs with one hidden layer, trained at {ALPHA} = 1; means over spaces."
    )


def service(data: Record) -> str:
    """Agreement of `/classify` with the direct computation."""
    found = data["experiments"]["service"]
    rows = [
        [_named(name), told["asked"], told["agreed"]] for name, told in found["bridges"].items()
    ]
    head = ["bridge", "predictions over HTTP", "the same as computed directly"]
    return f"{found['k']:,} anchors, {found['pairs']} pairs.\n\n" + table(head, rows)


def layers(found: Record) -> str:
    """How far a transformer's outputs turn when the input of one layer is scaled."""
    records = found["records"]
    alphas = sorted({r["alpha"] for r in records})
    rows = [
        [layer, *(number(where(records, layer=layer, alpha=a)[0]["cosine"]) for a in alphas)]
        for layer in sorted({r["layer"] for r in records})
    ]
    told = f"{found['model']}, {found['texts']} sentences: mean cosine of the embedding with that "
    return (
        told
        + "of the model as it is.\n\n"
        + table(["scaled layer", *(f"{ALPHA} = {a:g}" for a in alphas)], rows)
    )


def _native(native: Record, kind: str) -> str:
    own = [of[kind] for of in native.values()]
    return f"{np.mean(own):.3f} ± {np.std(own):.3f}"


def _chosen(chosen: Sequence[Record], counts: Sequence[int]) -> str:
    k = max(counts)
    told = ", ".join(
        f"{c['source']} → {c['target']} {c['delta']:g}/{c['omega']}" for c in where(chosen, k=k)
    )
    return f"δ/ω chosen for {IRP_BEST} at k = {k:,}: {told}."


def _mean(found: Any) -> str | None:
    return None if found is None else number(found.mean)


def _known(records: Sequence[Record], name: str) -> str:
    """Mean over those where it is defined."""
    known = [float(one[name]) for one in records if one[name] is not None]
    return number(float(np.mean(known)) if known else None)


def _named(name: str) -> str:
    told = {DEFAULT_BRIDGE: f"**{DEFAULT_BRIDGE}** (default)", RIDGE_BOTH: f"*{RIDGE_BOTH}*"}
    return told.get(name, f"*{PROCRUSTES}*" if name == PROCRUSTES else name)
