"""The plots about pairs of spaces, and what all plots share."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from stitchwork.evaluation.experiments.methods import ABSOLUTE, IRP_BEST, PROCRUSTES, RIDGE_BOTH
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.summary import Mean, measured, methods, values, where
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
    ABSOLUTE: "#A6A6A6",
}
LABELLED: Final = 0.15
"""A bar of this length holds its own number."""


def figure_of(
    width: float, height: float, columns: int = 1, rows: int = 1
) -> tuple[Figure, list[Any]]:
    """A figure of so many inches, and its axes line by line."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def methods_plot(data: Record, name: str) -> Figure | None:
    """Bars of the main table at the most anchors."""
    found = data["experiments"]["translation"]
    records, native = found["records"], found["native"]
    k = max(found["sizes"])
    labelled = (("linear", "accuracy, linear heads"), ("mlp", "accuracy, MLP heads"))
    shown = [*(labelled if native else ()), ("recall1", "recall@1 of the own item")]
    figure, axes = figure_of(1 + 3.6 * len(shown), 4.2, len(shown))
    names = methods(records)[::-1]
    for axis, (measure, title) in zip(axes, shown, strict=True):
        means = {m: measured(where(records, k=k, method=m), measure) for m in names}
        known = [mean or Mean(0.0, 0.0) for mean in means.values()]
        axis.barh(
            names,
            [m.mean for m in known],
            xerr=[m.std for m in known],
            color=[COLOURS.get(m, PALETTE[6]) for m in names],
            error_kw={"elinewidth": 1, "ecolor": "#333333", "capsize": 2},
        )
        for at, mean in enumerate(known):
            inside = mean.mean - mean.std > LABELLED
            place = 0.01 if inside else mean.mean + mean.std + 0.02
            colour = "white" if inside else "black"
            axis.text(place, at, f"{mean.mean:.3f}", va="center", fontsize=8, color=colour)
        if measure in ("linear", "mlp"):
            level = float(np.mean([own[measure] for own in native.values()]))
            axis.axvline(level, color="#333333", linestyle="--", linewidth=1)
            axis.set_title(f"{title}\n(dashed: native, {level:.3f})", fontsize=10)
        else:
            axis.set_title(title, fontsize=10)
        axis.set_xlim(0, 1.0)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    figure.suptitle(f"{name}: mean over ordered pairs ± spread, {k:,} anchors", fontsize=11)
    return figure


def anchors_plot(data: Record, name: str) -> Figure | None:
    """Accuracy and recall against the number of anchors."""
    found = data["experiments"]["translation"]
    records, native = found["records"], found["native"]
    shown = [*([("linear", "accuracy, linear heads")] if native else [])]
    shown.append(("recall1", "recall@1 of the own item"))
    figure, axes = figure_of(1 + 5 * len(shown), 4.4, len(shown))
    counts = sorted({r["k"] for r in records})
    for axis, (measure, title) in zip(axes, shown, strict=True):
        for i, method in enumerate(methods(records)):
            means = [measured(where(records, k=k, method=method), measure) for k in counts]
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
            level = float(np.mean([own[measure] for own in native.values()]))
            axis.axhline(level, color="#333333", linestyle=":", linewidth=1.2)
        axis.set_xscale("log")
        axis.set_xticks(counts, [f"{k:,}" for k in counts], rotation=45, fontsize=8)
        axis.minorticks_off()
        axis.set_xlabel("anchors, k")
        axis.set_ylabel(title)
        axis.set_ylim(0, 1.02)
        axis.grid(axis="y", alpha=0.25)
    axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{name}: more anchors, mean over ordered pairs (dotted: native)", fontsize=11)
    return figure


def inversion_plot(data: Record, name: str) -> Figure | None:
    """Similarity matrices of irp and the default."""
    found = data["experiments"]["inversion"]
    spaces, shown = found["spaces"], ("irp, unpruned", "irp", DEFAULT_BRIDGE)
    side = 1.6 + 0.55 * len(spaces)
    figure, axes = figure_of(3 * side + 1, side + 0.8, len(shown))
    for axis, method in zip(axes, shown, strict=True):
        matrix = np.array(found["centred"][method])
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
    figure.suptitle(f"{name}: reconstruction similarity, {found['k']:,} anchors", fontsize=11)
    return figure


def sensitivity_plot(data: Record, name: str) -> Figure | None:
    """Accuracy, similarity and condition number of irp against δ, a line for each ω."""
    found = data["experiments"]["sensitivity"]
    records = found["records"]
    labelled = "linear" in records[0]
    shown = [
        ("linear", "accuracy, linear heads") if labelled else ("recall1", "recall@1"),
        ("centred", "cosine about the anchors' mean"),
        ("condition", "condition number of kept anchors"),
        ("kept", "anchors kept"),
    ]
    figure, axes = figure_of(15, 3.8, len(shown))
    deltas = sorted({r["delta"] for r in records})
    for axis, (measure, title) in zip(axes, shown, strict=True):
        for i, omega in enumerate(sorted({r["omega"] for r in records})):
            means = [
                float(np.mean(values(where(records, delta=d, omega=omega), measure)))
                for d in deltas
            ]
            axis.plot(deltas, means, color=PALETTE[i], marker=MARKERS[i], label=f"ω = {omega}")
        if measure in ("condition", "kept"):
            axis.set_yscale("log")
        axis.set_xlabel("δ, least distance of kept anchors")
        axis.set_ylabel(title)
        axis.grid(axis="y", alpha=0.25)
    axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{name}: irp against δ and ω, {found['k']:,} anchors, mean over pairs")
    return figure


def prediction_plot(data: Record, name: str) -> Figure | None:
    """Similarity against accuracy: each pair's own settings, and one setting of all pairs."""
    swept = data["experiments"]["sensitivity"]["records"]
    moved = data["experiments"]["translation"]["records"]
    most = max(r["k"] for r in moved)
    figure, axes = figure_of(11, 4.4, 2)
    pairs = sorted({(r["source"], r["target"]) for r in swept})
    for i, (x, y) in enumerate(pairs):
        of = where(swept, source=x, target=y)
        axes[0].scatter(
            values(of, "centred"),
            values(of, "linear"),
            s=14,
            alpha=0.7,
            color=PALETTE[i % len(PALETTE)],
            marker=MARKERS[i // len(PALETTE) % len(MARKERS)],
        )
    axes[0].set_title("irp over δ and ω, one colour and shape for each pair", fontsize=10)
    for i, method in enumerate(("irp", "ridge", DEFAULT_BRIDGE)):
        of = where(moved, k=most, method=method)
        axes[1].scatter(
            values(of, "centred"),
            values(of, "linear"),
            s=22,
            alpha=0.8,
            color=COLOURS[method],
            marker=MARKERS[i],
            label=method,
        )
    axes[1].set_title(f"one point for each pair and draw, k = {most:,}", fontsize=10)
    axes[1].legend(fontsize=8, frameon=False)
    for axis in axes:
        axis.set_xlabel("reconstruction similarity (cosine about the anchors' mean)")
        axis.set_ylabel("accuracy, linear heads")
        axis.grid(alpha=0.25)
    figure.suptitle(f"{name}: does similarity predict accuracy?", fontsize=11)
    return figure


def modalities_plot(data: Record, name: str) -> Figure | None:
    """Recall@10 by method and control, one panel for each direction."""
    found = data["experiments"]["modalities"]
    modality, records = found["modality"], found["records"]
    ways = sorted({(modality[r["source"]], modality[r["target"]]) for r in records})
    names, controls = methods(records), list(found["conditions"])
    figure, axes = figure_of(1 + 5.5 * len(ways), 4.2, len(ways))
    for axis, way in zip(axes, ways, strict=True):
        of = [r for r in records if (modality[r["source"]], modality[r["target"]]) == way]
        for i, control in enumerate(controls):
            means = [measured(where(of, control=control, method=m), "recall10") for m in names]
            known = [0.0 if m is None else m.mean for m in means]
            at = np.arange(len(names)) + (i - (len(controls) - 1) / 2) * 0.27
            axis.bar(at, known, 0.25, color=PALETTE[i], label=control)
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
        axis.set_title(" → ".join(way), fontsize=10)
        axis.set_ylabel("recall@10 of the own item")
        axis.set_ylim(0, 1)
        axis.grid(axis="y", alpha=0.25)
    for axis in axes:
        for i, control in enumerate(controls):
            chance = found["conditions"][control]["chance"]["recall10"]
            axis.axhline(chance, color=PALETTE[i], linestyle=":", linewidth=1)
    axes[-1].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{name}: across modalities, with controls (dotted: chance)", fontsize=11)
    return figure
