"""Sections of the report on single analyses: inversion, sensitivity, confidence, norms, ..."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.evaluation.experiments.choosing import RANDOM
from stitchwork.evaluation.experiments.measures import Z95
from stitchwork.evaluation.experiments.probes import KINDS
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.markdown import ALPHA, format_interval, format_number, table
from stitchwork.evaluation.summary import (
    format_native,
    mean_of,
    method_label,
    methods,
    select,
    values,
)
from stitchwork.geometry.bridges import DEFAULT_BRIDGE


def inversion(data: Record) -> str:
    """Mean similarity of spaces, reconstructed through anchors, with themselves and with others."""
    result = data["experiments"]["inversion"]
    rows = []
    for name in result["centred"]:
        line: list[Any] = [method_label(name)]
        for measure in ("similarity", "centred"):
            matrix = np.array(result[measure][name])
            diagonal = np.eye(len(matrix), dtype=bool)
            line += [format_number(float(matrix[cells].mean())) for cells in (diagonal, ~diagonal)]
        rows.append(line)
    titles = ["method", "cosine, own space", "cosine, others", "centred, own", "centred, others"]
    return f"{result['k']:,} anchors, one draw; test rows.\n\n" + table(titles, rows)


def sensitivity(data: Record) -> str:
    """`irp` at every δ, for one subspace and for the largest ω."""
    result = data["experiments"]["sensitivity"]
    records = result["records"]
    omegas = sorted({r["omega"] for r in records})
    rows = []
    for delta in sorted({r["delta"] for r in records}):
        for omega in (omegas[0], omegas[-1]):
            selected = select(records, delta=delta, omega=omega)
            pruning = [
                format_number(float(np.mean(values(selected, name))), 1) for name in PRUNING_COLUMNS
            ]
            line = [
                mean_of(selected, m) if m in selected[0] else None
                for m in ("linear", *MEASURE_COLUMNS)
            ]
            rows.append([delta, omega, *pruning, *line])
    titles = ["δ", "ω", "anchors", "condition", "linear", "cosine", "centred", "recall@1"]
    return f"{result['k']:,} anchors, one draw.\n\n" + table(titles, rows)


def whitening(data: Record) -> str:
    """Every power of the whitened write, by bridge and number of anchors."""
    result = data["experiments"]["whitening"]
    records, native = result["records"], result["native"]
    measures = [*KINDS, "recall1", "centred"]
    rows: list[Sequence[Any]] = []
    for k in sorted({r["k"] for r in records}):
        for name in methods(records):
            for power in sorted({r["power"] for r in records}):
                selected = select(records, k=k, method=name, power=power)
                means = [mean_of(selected, m) for m in measures if m in selected[0]]
                rows.append([k, name, power, *means])
    labels = {"linear": "linear", "mlp": "MLP", "recall1": "recall@1", "centred": "centred"}
    titles = ["k", "bridge", "b", *(labels[m] for m in measures if m in records[0])]
    listed = (
        ", ".join(f"{kind} {format_native(native, kind)}" for kind in KINDS)
        if native
        else "no labels"
    )
    return f"One draw of each number of anchors; native: {listed}.\n\n" + table(titles, rows)


def choosing(data: Record) -> str:
    """Each choice of anchors: its mean, and its gain over random draws of the same pools."""
    result = data["experiments"]["choosing"]
    records = result["records"]
    measures = [m for m in (*KINDS, "recall1", "overlap10") if m in records[0]]
    rows: list[Sequence[Any]] = []
    for k in sorted({r["k"] for r in records}):
        random = select(records, k=k, choice=RANDOM)
        for choice in dict.fromkeys(r["choice"] for r in records):
            line: list[Any] = [k, choice]
            for measure in measures:
                chosen = values(select(records, k=k, choice=choice), measure)
                line.append(format_number(float(np.mean(chosen))))
                if choice != RANDOM:
                    gain = paired_mean(np.subtract(chosen, values(random, measure)))
                    line[-1] += f" ({gain})"
            rows.append(line)
    labels = {"linear": "linear", "mlp": "MLP", "recall1": "recall@1", "overlap10": "overlap@10"}
    draws = len({r["draw"] for r in records})
    return (
        f"Anchors are chosen from a pool of {result['pool']:,} training rows in "
        f"{result['reference']}, without labels; {draws} pools. In brackets the difference from "
        "a random draw of the same pool, with its 95% interval over pools and pairs.\n\n"
    ) + table(["k", "choice", *(labels[m] for m in measures)], rows)


def paired_mean(differences: NDArray[Any]) -> str:
    """The mean of differences and half the width of its 95% interval, as text."""
    half = Z95 * float(differences.std(ddof=1)) / len(differences) ** 0.5
    return f"{differences.mean():+.3f} ± {half:.3f}"


def misaligned(data: Record) -> str:
    """Precision and recall of the detection of swapped anchors."""
    result = data["experiments"]["misaligned"]
    rows: list[Sequence[Any]] = []
    for k in sorted({r["anchors"] for r in result["records"]}):
        for r in select(result["records"], anchors=k):
            shares = [format_number(r[name]) for name in ("precision", "recall")]
            clean = f"{r['clean_positives']} of {r['clean']:,}"
            rows.append([k, " and ".join(r["spaces"]), r["swapped"], *shares, clean])
    titles = ["anchors", "spaces", "swapped", "precision", "recall", "reported without a swap"]
    swaps = f"{result['share']:.0%} of the anchors are swapped in one of two spaces, without near "
    return f"{swaps}duplicates; {len(result['seeds'])} draws.\n\n" + table(titles, rows)


PRUNING_COLUMNS: Final = ("anchors", "condition")
MEASURE_COLUMNS: Final = ("similarity", "centred", "recall1")


def prediction(data: Record) -> str:
    """Correlations with accuracy, and the paper's claim about them."""
    result = data["experiments"]["prediction"]
    within = [
        [name, format_interval(mean["r"], mean["low"], mean["high"]), len(mean["pairs"])]
        for name, mean in result["within"].items()
    ]
    across = [
        [name, *(format_interval(c["r"], c["low"], c["high"]) for c in correlations.values())]
        for name, correlations in result["across"].items()
    ]
    return "\n\n".join(
        (
            "Within a pair: the mean r of the pairs, with its 95% interval over pairs.",
            table(["predictor of accuracy", "r", "pairs"], within),
            "Across pairs, at one setting: r with Fisher's 95% interval, which assumes independent "
            "pairs although they share spaces.",
            table(["predictor", "r with accuracy", "r with share of native"], across),
            "The paper claims that a high reconstruction similarity and a low condition number go "
            "with a high accuracy; the tables show where this holds here.",
        )
    )


def confidence(data: Record) -> str:
    """AUROC and calibration error of confidence, native and stitched."""
    result = data["experiments"]["confidence"]
    measures = ("accuracy", "head", "target neighbours", "source neighbours")
    errors = ("error", "calibrated error")
    native = list(result["native"].values())
    rows = [["native", *(_mean_defined(native, m) for m in measures[:2]), "", ""]]
    rows[0] += [_mean_defined(native, m) for m in errors]
    for name in dict.fromkeys(r["bridge"] for r in result["records"]):
        selected = select(result["records"], bridge=name)
        means = [_mean_defined(selected, m) for m in (*measures, *errors)]
        rows.append([method_label(name), *means])
    titles = ["", "accuracy", "AUROC: head", "AUROC: near target", "AUROC: near source"]
    pooled = result["reliability"]
    return table([*titles, "ECE", "ECE calibrated"], rows) + (
        f"\n\n{result['k']:,} anchors, linear heads, means over pairs; AUROC is that of right "
        "against wrong predictions. Calibration is fitted on half of the test rows and measured on "
        "the other half. "
        f"Over all {pooled['rows']:,} predictions of {DEFAULT_BRIDGE} together the calibration "
        f"error is {format_number(pooled['raw']['error'])}, calibrated "
        f"{format_number(pooled['calibrated']['error'])}."
    )


def norms(data: Record) -> str:
    """Distribution of norms."""
    rows = []
    for space, statistics in data["experiments"]["norms"]["spaces"].items():
        line = [space, format_number(statistics["mean"]), format_number(statistics["cv"])]
        if "p" in statistics:
            line += [format_number(statistics[name], 2) for name in ("skewness", "kurtosis")]
            line.append(f"{statistics['p']:.1e}")
            line.append("no" if statistics["p"] < 0.05 else "not rejected")
        else:
            line += ["", "", "", "constant"]
        rows.append(line)
    titles = ["space", "mean", "CV", "skewness", "excess kurtosis", "p", "normal at 5%"]
    return table(titles, rows) + "\n\nD'Agostino and Pearson's test on the training rows."


def scale(data: Record) -> str:
    """Accuracy of small networks by the factor on their inputs, means over spaces."""
    records = data["experiments"]["scale"]["records"]
    alphas = sorted({r["alpha"] for r in records})
    rows = [
        [
            name,
            *(
                format_number(float(np.mean(values(select(of, alpha=a), "accuracy"))))
                for a in alphas
            ),
        ]
        for name in dict.fromkeys(r["activation"] for r in records)
        for of in [select(records, activation=name)]
    ]
    return table(["activation", *(f"{ALPHA} = {a:g}" for a in alphas)], rows) + (
        f"\n\nMLPs with one hidden layer, trained at {ALPHA} = 1; means over spaces."
    )


def service(data: Record) -> str:
    """Agreement of `/classify` with the direct computation."""
    result = data["experiments"]["service"]
    rows = [
        [method_label(name), counts["predictions"], counts["agreed"]]
        for name, counts in result["bridges"].items()
    ]
    titles = ["bridge", "predictions over HTTP", "equal to the direct computation"]
    return f"{result['k']:,} anchors, {result['pairs']} pairs.\n\n" + table(titles, rows)


def layers(result: Record) -> str:
    """Cosine of a transformer's outputs when the input of one layer is scaled."""
    records = result["records"]
    alphas = sorted({r["alpha"] for r in records})
    rows = [
        [
            layer,
            *(format_number(select(records, layer=layer, alpha=a)[0]["cosine"]) for a in alphas),
        ]
        for layer in sorted({r["layer"] for r in records})
    ]
    model = (
        f"{result['model']}, {result['texts']} sentences: mean cosine of the embedding with that "
    )
    return (
        model
        + "of the unscaled model.\n\n"
        + table(["scaled layer", *(f"{ALPHA} = {a:g}" for a in alphas)], rows)
    )


def _mean_defined(records: Sequence[Record], name: str) -> str:
    """Mean over the records where the measure is defined."""
    defined = [float(record[name]) for record in records if record[name] is not None]
    return format_number(float(np.mean(defined)) if defined else None)
