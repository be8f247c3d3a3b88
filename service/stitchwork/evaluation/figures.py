"""Plots about pairs of spaces, and what all plots share."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from stitchwork.evaluation.experiments.methods import (
    ABSOLUTE,
    IRP_BEST,
    KERNEL_RIDGE,
    KERNEL_RIDGE_WHITENED,
    PROCRUSTES,
    RIDGE_BOTH,
)
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.summary import Mean, mean_of, methods, select, values
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

# Okabe and Ito, Color Universal Design, 2008.
PALETTE: Final = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C8C8C", "#000000",
)  # fmt: skip
MARKERS: Final = "osD^vPX*"
COLOURS: Final[Mapping[str, str]] = {
    "exp": PALETTE[0],
    "ridge": PALETTE[2],
    "ridge-whitened": PALETTE[5],
    "irp": PALETTE[3],
    "irp-completed": PALETTE[4],
    IRP_BEST: PALETTE[1],
    RIDGE_BOTH: "#4D4D4D",
    PROCRUSTES: "#7F7F7F",
    KERNEL_RIDGE: "#882255",
    KERNEL_RIDGE_WHITENED: "#000000",
    ABSOLUTE: "#A6A6A6",
}
MIN_LABELLED_BAR: Final = 0.15
"""Length from which a bar contains its number."""


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1
) -> tuple[Figure, list[Any]]:
    """A figure of this size in inches, and its axes row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def methods_plot(data: Record, name: str) -> Figure | None:
    """Bars of the main table at the largest number of anchors."""
    result = data["experiments"]["translation"]
    records, native = result["records"], result["native"]
    k = max(result["sizes"])
    labelled = (("linear", "accuracy, linear heads"), ("mlp", "accuracy, MLP heads"))
    panels = [*(labelled if native else ()), ("recall1", "recall@1 of the own item")]
    figure, axes = new_figure(1 + 3.6 * len(panels), 4.2, len(panels))
    names = methods(records)[::-1]
    for axis, (measure, title) in zip(axes, panels, strict=True):
        means = {m: mean_of(select(records, k=k, method=m), measure) for m in names}
        bars = [mean or Mean(0.0, 0.0) for mean in means.values()]
        axis.barh(
            names,
            [m.mean for m in bars],
            xerr=[m.std for m in bars],
            color=[COLOURS.get(m, PALETTE[6]) for m in names],
            error_kw={"elinewidth": 1, "ecolor": "#333333", "capsize": 2},
        )
        for position, mean in enumerate(bars):
            inside = mean.mean - mean.std > MIN_LABELLED_BAR
            x = 0.01 if inside else mean.mean + mean.std + 0.02
            colour = "white" if inside else "black"
            axis.text(x, position, f"{mean.mean:.3f}", va="center", fontsize=8, color=colour)
        if measure in ("linear", "mlp"):
            level = float(np.mean([accuracies[measure] for accuracies in native.values()]))
            axis.axvline(level, color="#333333", linestyle="--", linewidth=1)
            axis.set_title(f"{title}\n(dashed: native, {level:.3f})", fontsize=10)
        else:
            axis.set_title(title, fontsize=10)
        axis.set_xlim(0, 1.0)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    figure.suptitle(
        f"{name}: mean over ordered pairs ± standard deviation, {k:,} anchors", fontsize=11
    )
    return figure


def anchors_plot(data: Record, name: str) -> Figure | None:
    """Accuracy and recall against the number of anchors."""
    result = data["experiments"]["translation"]
    records, native = result["records"], result["native"]
    panels = [*([("linear", "accuracy, linear heads")] if native else [])]
    panels.append(("recall1", "recall@1 of the own item"))
    figure, axes = new_figure(1 + 5 * len(panels), 4.4, len(panels))
    counts = sorted({r["k"] for r in records})
    for axis, (measure, title) in zip(axes, panels, strict=True):
        for i, method in enumerate(methods(records)):
            means = [mean_of(select(records, k=k, method=method), measure) for k in counts]
            points = [(k, m.mean) for k, m in zip(counts, means, strict=True) if m is not None]
            if not points:
                continue
            axis.plot(
                *zip(*points, strict=True),
                color=COLOURS.get(method, PALETTE[6]),
                marker=MARKERS[i % len(MARKERS)],
                markersize=5,
                linewidth=2.4 if method == DEFAULT_BRIDGE else 1.3,
                linestyle="--" if method in (RIDGE_BOTH, PROCRUSTES) else "-",
                label=method,
            )
        if measure == "linear":
            level = float(np.mean([accuracies[measure] for accuracies in native.values()]))
            axis.axhline(level, color="#333333", linestyle=":", linewidth=1.2)
        axis.set_xscale("log")
        axis.set_xticks(counts, [f"{k:,}" for k in counts], rotation=45, fontsize=8)
        axis.minorticks_off()
        axis.set_xlabel("anchors, k")
        axis.set_ylabel(title)
        axis.set_ylim(0, 1.02)
        axis.grid(axis="y", alpha=0.25)
    axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(
        f"{name}: number of anchors, mean over ordered pairs (dotted: native)", fontsize=11
    )
    return figure


def inversion_plot(data: Record, name: str) -> Figure | None:
    """Similarity matrices of irp and the default."""
    result = data["experiments"]["inversion"]
    spaces, panels = result["spaces"], ("irp, unpruned", "irp", DEFAULT_BRIDGE)
    side = 1.6 + 0.55 * len(spaces)
    figure, axes = new_figure(3 * side + 1, side + 0.8, len(panels))
    for axis, method in zip(axes, panels, strict=True):
        matrix = np.array(result["centred"][method])
        axis.imshow(matrix, vmin=0, vmax=1, cmap="cividis")
        for (row, column), value in np.ndenumerate(matrix):
            colour = "black" if value > 0.6 else "white"
            size = 8 if len(spaces) < 7 else 6
            axis.text(
                column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=size
            )
        axis.set_xticks(range(len(spaces)), spaces, rotation=45, ha="right", fontsize=8)
        axis.set_yticks(range(len(spaces)), spaces if axis is axes[0] else [], fontsize=8)
        axis.set_title(method, fontsize=10)
        axis.set_xlabel("target", fontsize=9)
    axes[0].set_ylabel("source", fontsize=9)
    figure.colorbar(
        axes[0].images[0], ax=axes, label="mean cosine about the anchors' mean", shrink=0.8
    )
    figure.suptitle(f"{name}: reconstruction similarity, {result['k']:,} anchors", fontsize=11)
    return figure


def sensitivity_plot(data: Record, name: str) -> Figure | None:
    """Accuracy, similarity and condition number of irp against δ, one line for each ω."""
    result = data["experiments"]["sensitivity"]
    records = result["records"]
    labelled = "linear" in records[0]
    panels = [
        ("linear", "accuracy, linear heads") if labelled else ("recall1", "recall@1"),
        ("centred", "cosine about the anchors' mean"),
        ("condition", "condition number of pruned anchors"),
        ("anchors", "anchors in a subspace"),
    ]
    figure, axes = new_figure(15, 3.8, len(panels))
    deltas = sorted({r["delta"] for r in records})
    for axis, (measure, title) in zip(axes, panels, strict=True):
        for i, omega in enumerate(sorted({r["omega"] for r in records})):
            means = [
                float(np.mean(values(select(records, delta=d, omega=omega), measure)))
                for d in deltas
            ]
            axis.plot(deltas, means, color=PALETTE[i], marker=MARKERS[i], label=f"ω = {omega}")
        if measure in ("condition", "anchors"):
            axis.set_yscale("log")
        axis.set_xlabel("δ, minimum distance of anchors")
        axis.set_ylabel(title)
        axis.grid(axis="y", alpha=0.25)
    axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{name}: irp against δ and ω, {result['k']:,} anchors, mean over pairs")
    return figure


def prediction_plot(data: Record, name: str) -> Figure | None:
    """Similarity against accuracy: all settings of each pair, and one setting of all pairs."""
    sweep = data["experiments"]["sensitivity"]["records"]
    translated = data["experiments"]["translation"]["records"]
    k = max(r["k"] for r in translated)
    figure, axes = new_figure(11, 4.4, 2)
    pairs = sorted({(r["source"], r["target"]) for r in sweep})
    for i, (x, y) in enumerate(pairs):
        selected = select(sweep, source=x, target=y)
        axes[0].scatter(
            values(selected, "centred"),
            values(selected, "linear"),
            s=14,
            alpha=0.7,
            color=PALETTE[i % len(PALETTE)],
            marker=MARKERS[i // len(PALETTE) % len(MARKERS)],
        )
    axes[0].set_title("irp over δ and ω, one colour and shape for each pair", fontsize=10)
    for i, method in enumerate(("irp", "ridge", DEFAULT_BRIDGE)):
        selected = select(translated, k=k, method=method)
        axes[1].scatter(
            values(selected, "centred"),
            values(selected, "linear"),
            s=22,
            alpha=0.8,
            color=COLOURS[method],
            marker=MARKERS[i],
            label=method,
        )
    axes[1].set_title(f"one point for each pair and draw, k = {k:,}", fontsize=10)
    axes[1].legend(fontsize=8, frameon=False)
    for axis in axes:
        axis.set_xlabel("reconstruction similarity (cosine about the anchors' mean)")
        axis.set_ylabel("accuracy, linear heads")
        axis.grid(alpha=0.25)
    figure.suptitle(f"{name}: does similarity predict accuracy?", fontsize=11)
    return figure


def modalities_plot(data: Record, name: str) -> Figure | None:
    """Recall@10 by method and control, one panel for each direction."""
    result = data["experiments"]["modalities"]
    modality, records = result["modality"], result["records"]
    directions = sorted({(modality[r["source"]], modality[r["target"]]) for r in records})
    names, controls = methods(records), list(result["conditions"])
    figure, axes = new_figure(1 + 5.5 * len(directions), 4.2, len(directions))
    for axis, direction in zip(axes, directions, strict=True):
        selected = [
            r for r in records if (modality[r["source"]], modality[r["target"]]) == direction
        ]
        for i, control in enumerate(controls):
            means = [
                mean_of(select(selected, control=control, method=m), "recall10") for m in names
            ]
            heights = [0.0 if m is None else m.mean for m in means]
            positions = np.arange(len(names)) + (i - (len(controls) - 1) / 2) * 0.27
            axis.bar(positions, heights, 0.25, color=PALETTE[i], label=control)
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
        axis.set_title(" → ".join(direction), fontsize=10)
        axis.set_ylabel("recall@10 of the own item")
        axis.set_ylim(0, 1)
        axis.grid(axis="y", alpha=0.25)
    for axis in axes:
        for i, control in enumerate(controls):
            chance = result["conditions"][control]["chance"]["recall10"]
            axis.axhline(chance, color=PALETTE[i], linestyle=":", linewidth=1)
    axes[-1].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{name}: across modalities, with controls (dotted: chance)", fontsize=11)
    return figure
