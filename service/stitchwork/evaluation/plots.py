"""The plots of an evaluation, as PNG files; colours that colour-blind readers can tell apart."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.figures import (
    MARKERS,
    PALETTE,
    anchors_plot,
    figure_of,
    inversion_plot,
    methods_plot,
    modalities_plot,
    prediction_plot,
    sensitivity_plot,
)
from stitchwork.evaluation.markdown import ALPHA
from stitchwork.evaluation.summary import values, where
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

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


def _reliability(data: Record, name: str) -> Figure | None:
    """Confidence against accuracy, before and after calibration."""
    found = data["experiments"]["confidence"]["reliability"]
    figure, axes = figure_of(9.5, 4.6, 2)
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
        for bar in bars:
            middle, size = (bar["low"] + bar["high"]) / 2, bar["size"]
            place = min(bar["accuracy"] + 0.02, 0.97)
            axis.text(middle, place, f"{size:,}", ha="center", fontsize=6, color="#333333")
        axis.set_title(f"{which}: calibration error {found[which]['error']:.3f}", fontsize=10)
        axis.set_xlabel("confidence")
        axis.set_ylabel("share of right predictions")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.set_aspect("equal")
    axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    told = (
        f"{name}: {found['rows']:,} predictions through {DEFAULT_BRIDGE}, "
        "the number of each bin on it"
    )
    figure.suptitle(told, fontsize=11)
    return figure


def _norms(data: Record, name: str) -> Figure | None:
    """Histograms of lengths, with the normal density of the same mean and spread."""
    found = data["experiments"]["norms"]["spaces"]
    spaces = [space for space, told in found.items() if "counts" in told]
    if not spaces:
        return None
    figure, axes = figure_of(2.9 * len(spaces) + 0.6, 3.2, len(spaces))
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
    figure, (axis,) = figure_of(6.4, 4.2)
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


def _layers(found: Record) -> Figure:
    records = found["records"]
    figure, (axis,) = figure_of(6.4, 4.2)
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
    "methods": ("translation", methods_plot),
    "anchors": ("translation", anchors_plot),
    "inversion": ("inversion", inversion_plot),
    "sensitivity": ("sensitivity", sensitivity_plot),
    "prediction": ("prediction", prediction_plot),
    "reliability": ("confidence", _reliability),
    "norms": ("norms", _norms),
    "scale": ("scale", _scale),
    "modalities": ("modalities", modalities_plot),
}
