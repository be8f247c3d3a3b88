"""The plots of an evaluation, as PNG files; colours that colour-blind readers can tell apart."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from service.evaluation.experiments.methods import ABSOLUTE, IRP_BEST, PROCRUSTES, RIDGE_BOTH
from service.evaluation.experiments.study import Record
from service.evaluation.markdown import ALPHA
from service.evaluation.summary import measured, methods, sizes, values, where
from service.geometry.bridges import DEFAULT

mpl.use("Agg")

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
    RIDGE_BOTH: PALETTE[7],
    PROCRUSTES: "#555555",
    ABSOLUTE: PALETTE[6],
}
DOTS: Final = 130


def plots(results: Record, folder: Path) -> dict[str, Path]:
    """Draw what the results allow.

    Args:
        results: As `evaluate` gathers them.
        folder: Where the files go.

    Returns:
        Paths by `data/plot`, and `layers` alone.
    """
    found: dict[str, Path] = {}
    for name, data in results["data"].items():
        for plot, (experiment, draw) in PLOTS.items():
            if experiment not in data["experiments"]:
                continue
            figure = draw(data, name)
            if figure is not None:
                found[f"{name}/{plot}"] = _saved(figure, folder / f"{name}-{plot}.png")
    if "layers" in results:
        found["layers"] = _saved(_layers(results["layers"]), folder / "layers.png")
    return found


def _saved(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS)
    return path


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(np.ravel(figure.subplots(1, columns, squeeze=False)))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _methods(data: Record, name: str) -> Figure | None:
    """Bars of the main table at the most anchors."""
    found = data["experiments"]["translation"]
    records, native = found["records"], found["native"]
    k = max(sizes(records))
    labelled = (("linear", "accuracy, linear heads"), ("mlp", "accuracy, MLP heads"))
    shown = [*(labelled if native else ()), ("recall1", "recall@1 of the own item")]
    figure, axes = _figure(1 + 3.6 * len(shown), 4.2, len(shown))
    names = methods(records)[::-1]
    for axis, (measure, title) in zip(axes, shown, strict=True):
        means = [measured(where(records, k=k, method=m), measure) for m in names]
        known = [m for m in means if m is not None]
        axis.barh(
            names,
            [m.mean for m in known],
            xerr=[m.std for m in known],
            color=[COLOURS.get(m, PALETTE[6]) for m in names],
            error_kw={"elinewidth": 1, "ecolor": "#333333", "capsize": 2},
        )
        for at, mean in enumerate(known):
            axis.text(
                0.01,
                at,
                f"{mean.mean:.3f}",
                va="center",
                fontsize=8,
                color="white",
                fontweight="bold",
            ) if mean.mean > 0.15 else axis.text(
                mean.mean + mean.std + 0.02, at, f"{mean.mean:.3f}", va="center", fontsize=8
            )
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


def _anchors(data: Record, name: str) -> Figure | None:
    """Accuracy and recall against the number of anchors."""
    found = data["experiments"]["translation"]
    records, native = found["records"], found["native"]
    shown = [*([("linear", "accuracy, linear heads")] if native else [])]
    shown.append(("recall1", "recall@1 of the own item"))
    figure, axes = _figure(1 + 5 * len(shown), 4.4, len(shown))
    counts = sorted({r["k"] for r in records})
    for axis, (measure, title) in zip(axes, shown, strict=True):
        for i, method in enumerate(methods(records)):
            means = [measured(where(records, k=k, method=method), measure) for k in counts]
            points = [(k, m.mean) for k, m in zip(counts, means, strict=True) if m is not None]
            axis.plot(
                *zip(*points, strict=True),
                color=COLOURS.get(method, PALETTE[6]),
                marker=MARKERS[i % len(MARKERS)],
                markersize=5,
                linewidth=2.4 if method == DEFAULT else 1.3,
                linestyle="--" if method in (RIDGE_BOTH, PROCRUSTES) else "-",
                label=method,
            )
        if measure == "linear":
            level = float(np.mean([own[measure] for own in native.values()]))
            axis.axhline(level, color="#333333", linestyle=":", linewidth=1.2, label="native")
        axis.set_xscale("log")
        axis.set_xticks(counts, [f"{k:,}" for k in counts], rotation=45, fontsize=8)
        axis.minorticks_off()
        axis.set_xlabel("anchors, k")
        axis.set_ylabel(title)
        axis.set_ylim(0, 1.02)
        axis.grid(axis="y", alpha=0.25)
    axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{name}: more anchors, mean over ordered pairs", fontsize=11)
    return figure


def _inversion(data: Record, name: str) -> Figure | None:
    """Similarity matrices of irp and the default."""
    found = data["experiments"]["inversion"]
    spaces, shown = found["spaces"], ("irp, unpruned", "irp", DEFAULT)
    side = 1.6 + 0.55 * len(spaces)
    figure, axes = _figure(3 * side + 1, side + 0.8, len(shown))
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


def _sensitivity(data: Record, name: str) -> Figure | None:
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
    figure, axes = _figure(15, 3.8, len(shown))
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


def _prediction(data: Record, name: str) -> Figure | None:
    """Similarity against accuracy: each pair's own settings, and one setting of all pairs."""
    swept = data["experiments"]["sensitivity"]["records"]
    moved = data["experiments"]["translation"]["records"]
    most = max(r["k"] for r in moved)
    figure, axes = _figure(11, 4.4, 2)
    pairs = sorted({(r["source"], r["target"]) for r in swept})
    for i, (x, y) in enumerate(pairs):
        of = sorted(where(swept, source=x, target=y), key=lambda r: float(r["centred"]))
        axes[0].plot(
            values(of, "centred"),
            values(of, "linear"),
            marker=".",
            linewidth=0.7,
            color=PALETTE[i % len(PALETTE)],
            alpha=0.7,
        )
    axes[0].set_title("irp over δ and ω, one line for each pair", fontsize=10)
    for i, method in enumerate(("irp", "ridge", DEFAULT)):
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


def _reliability(data: Record, name: str) -> Figure | None:
    """Confidence against accuracy, before and after calibration."""
    found = data["experiments"]["confidence"]["reliability"]
    figure, axes = _figure(9.5, 4.6, 2)
    for axis, which in zip(axes, ("raw", "calibrated"), strict=True):
        bars = found[which]["bins"]
        axis.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1)
        width = [b["high"] - b["low"] for b in bars]
        axis.bar(
            [b["low"] for b in bars],
            [b["accuracy"] for b in bars],
            width,
            align="edge",
            color=PALETTE[5],
            edgecolor="white",
            label="accuracy in the bin",
        )
        axis.plot(
            [b["confidence"] for b in bars],
            [b["accuracy"] for b in bars],
            "o",
            color=PALETTE[3],
            markersize=5,
            label="mean confidence of the bin",
        )
        axis.set_title(f"{which}: calibration error {found[which]['error']:.3f}", fontsize=10)
        axis.set_xlabel("confidence")
        axis.set_ylabel("share of right predictions")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.set_aspect("equal")
    axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    told = f"{name}: stitched by {DEFAULT}, {found['rows']:,} predictions of all pairs"
    figure.suptitle(told, fontsize=11)
    return figure


def _norms(data: Record, name: str) -> Figure | None:
    """Histograms of lengths, with the normal density of the same mean and spread."""
    found = data["experiments"]["norms"]["spaces"]
    spaces = [space for space, told in found.items() if "counts" in told]
    if not spaces:
        return None
    figure, axes = _figure(2.9 * len(spaces) + 0.6, 3.2, len(spaces))
    for axis, space in zip(axes, spaces, strict=True):
        told = found[space]
        edges, counts = np.array(told["edges"]), np.array(told["counts"])
        density = counts / (counts.sum() * np.diff(edges))
        axis.bar(edges[:-1], density, np.diff(edges), align="edge", color=PALETTE[5])
        at = np.linspace(edges[0], edges[-1], 200)
        normal = np.exp(-(((at - 1) / told["cv"]) ** 2) / 2) / (told["cv"] * np.sqrt(2 * np.pi))
        axis.plot(at, normal, color=PALETTE[3], linewidth=1.5)
        axis.set_title(f"{space}\nCV {told['cv']:.3f}, p = {told['p']:.0e}", fontsize=9)
        axis.set_xlabel("length / mean length", fontsize=9)
    axes[0].set_ylabel("density")
    figure.suptitle(f"{name}: lengths of rows, and the normal density beside them", fontsize=11)
    return figure


def _scale(data: Record, name: str) -> Figure | None:
    """Accuracy of nets against the factor on their inputs."""
    records = data["experiments"]["scale"]["records"]
    figure, (axis,) = _figure(6.4, 4.2)
    alphas = sorted({r["alpha"] for r in records})
    for i, activation in enumerate(dict.fromkeys(r["activation"] for r in records)):
        of = [values(where(records, activation=activation, alpha=a), "accuracy") for a in alphas]
        means, stds = np.array([np.mean(v) for v in of]), np.array([np.std(v) for v in of])
        axis.plot(alphas, means, color=PALETTE[i], marker=MARKERS[i], label=activation)
        axis.fill_between(alphas, means - stds, means + stds, color=PALETTE[i], alpha=0.15)
    axis.set_xscale("log")
    axis.set_xlabel(f"{ALPHA}, factor on the inputs (trained at 1)")
    axis.set_ylabel("accuracy")
    axis.set_ylim(0, 1.02)
    axis.grid(axis="y", alpha=0.25)
    axis.legend(frameon=False)
    axis.set_title(f"{name}: MLPs under rescaled inputs, mean ± spread over spaces", fontsize=10)
    return figure


def _modalities(data: Record, name: str) -> Figure | None:
    """Recall@10 by method and control, one panel for each direction."""
    found = data["experiments"]["modalities"]
    modality, records = found["modality"], found["records"]
    ways = sorted({(modality[r["source"]], modality[r["target"]]) for r in records})
    names, controls = methods(records), list(found["conditions"])
    figure, axes = _figure(1 + 5.5 * len(ways), 4.2, len(ways))
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
    for i, control in enumerate(controls):
        chance = found["conditions"][control]["chance"]["recall10"]
        axes[0].axhline(chance, color=PALETTE[i], linestyle=":", linewidth=1)
    axes[-1].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{name}: across modalities, with controls (dotted: chance)", fontsize=11)
    return figure


def _layers(found: Record) -> Figure:
    records = found["records"]
    figure, (axis,) = _figure(6.4, 4.2)
    numbers = sorted({r["layer"] for r in records})
    for i, alpha in enumerate(sorted({r["alpha"] for r in records} - {1.0})):
        of = [where(records, layer=n, alpha=alpha)[0]["cosine"] for n in numbers]
        axis.plot(numbers, of, color=PALETTE[i], marker=MARKERS[i], label=f"{ALPHA} = {alpha:g}")
    axis.set_xlabel("layer whose input is scaled")
    axis.set_ylabel("cosine of the embedding with the unscaled one")
    axis.set_xticks(numbers)
    axis.set_ylim(0, 1.02)
    axis.grid(axis="y", alpha=0.25)
    axis.legend(frameon=False)
    axis.set_title(f"{found['model']}: layers under rescaling", fontsize=10)
    return figure


Draw = Callable[[Record, str], Figure | None]
PLOTS: Final[Mapping[str, tuple[str, Draw]]] = {
    "methods": ("translation", _methods),
    "anchors": ("translation", _anchors),
    "inversion": ("inversion", _inversion),
    "sensitivity": ("sensitivity", _sensitivity),
    "prediction": ("prediction", _prediction),
    "reliability": ("confidence", _reliability),
    "norms": ("norms", _norms),
    "scale": ("scale", _scale),
    "modalities": ("modalities", _modalities),
}
