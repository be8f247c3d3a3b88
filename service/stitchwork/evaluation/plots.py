"""The plots of an evaluation as PNG files, in colours that are safe for colour-blind readers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from stitchwork.evaluation.cell_figures import cells_plot, relevance_plot
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.figures import (
    MARKERS,
    PALETTE,
    anchors_plot,
    inversion_plot,
    methods_plot,
    modalities_plot,
    new_figure,
    prediction_plot,
    sensitivity_plot,
)
from stitchwork.evaluation.markdown import ALPHA
from stitchwork.evaluation.summary import select, values
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

DOTS_PER_INCH: Final = 130


def plots(results: Record, folder: Path) -> dict[str, Path]:
    """Draw a plot of each experiment in the results.

    Args:
        results: As `evaluate` collects them.
        folder: Folder of the files.

    Returns:
        Paths by `data/plot`, and by `cells` and `layers`.
    """
    paths: dict[str, Path] = {}
    for name, data in results["data"].items():
        for plot, (experiment, draw) in PLOTS.items():
            if experiment not in data["experiments"]:
                continue
            figure = draw(data, name)
            if figure is not None:
                paths[f"{name}/{plot}"] = _save(figure, folder / f"{name}-{plot}.png")
    if (figure := cells_plot(results)) is not None:
        paths["cells"] = _save(figure, folder / "cells.png")
    if "layers" in results:
        paths["layers"] = _save(_layers(results["layers"]), folder / "layers.png")
    return paths


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def _reliability(data: Record, name: str) -> Figure | None:
    """Confidence against accuracy, before and after calibration."""
    result = data["experiments"]["confidence"]["reliability"]
    figure, axes = new_figure(9.5, 4.6, 2)
    for axis, kind in zip(axes, ("raw", "calibrated"), strict=True):
        bars = result[kind]["bins"]
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
            height = min(bar["accuracy"] + 0.02, 0.97)
            axis.text(middle, height, f"{size:,}", ha="center", fontsize=6, color="#333333")
        axis.set_title(f"{kind}: calibration error {result[kind]['error']:.3f}", fontsize=10)
        axis.set_xlabel("confidence")
        axis.set_ylabel("share of correct predictions")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.set_aspect("equal")
    axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    title = (
        f"{name}: {result['rows']:,} predictions through {DEFAULT_BRIDGE}, "
        "with the number in each bin"
    )
    figure.suptitle(title, fontsize=11)
    return figure


def _norms(data: Record, name: str) -> Figure | None:
    """Histograms of norms, with the normal density of the same mean and standard deviation."""
    statistics = data["experiments"]["norms"]["spaces"]
    spaces = [space for space, values_of in statistics.items() if "counts" in values_of]
    if not spaces:
        return None
    figure, axes = new_figure(2.9 * len(spaces) + 0.6, 3.2, len(spaces))
    for axis, space in zip(axes, spaces, strict=True):
        own = statistics[space]
        edges, counts = np.array(own["edges"]), np.array(own["counts"])
        density = counts / (counts.sum() * np.diff(edges))
        axis.bar(edges[:-1], density, np.diff(edges), align="edge", color=PALETTE[5])
        x = np.linspace(edges[0], edges[-1], 200)
        normal = np.exp(-(((x - 1) / own["cv"]) ** 2) / 2) / (own["cv"] * np.sqrt(2 * np.pi))
        axis.plot(x, normal, color=PALETTE[3], linewidth=1.5)
        axis.set_title(f"{space}\nCV {own['cv']:.3f}, p = {own['p']:.0e}", fontsize=9)
        axis.set_xlabel("norm / mean norm", fontsize=9)
    axes[0].set_ylabel("density")
    figure.suptitle(f"{name}: norms of rows, and the normal density", fontsize=11)
    return figure


def _scale(data: Record, name: str) -> Figure | None:
    """Accuracy of networks against the factor on their inputs."""
    records = data["experiments"]["scale"]["records"]
    figure, (axis,) = new_figure(6.4, 4.2)
    alphas = sorted({r["alpha"] for r in records})
    for i, activation in enumerate(dict.fromkeys(r["activation"] for r in records)):
        accuracies = [
            values(select(records, activation=activation, alpha=alpha), "accuracy")
            for alpha in alphas
        ]
        means = np.array([np.mean(of_alpha) for of_alpha in accuracies])
        stds = np.array([np.std(of_alpha) for of_alpha in accuracies])
        axis.plot(alphas, means, color=PALETTE[i], marker=MARKERS[i], label=activation)
        axis.fill_between(alphas, means - stds, means + stds, color=PALETTE[i], alpha=0.15)
    axis.set_xscale("log")
    axis.set_xlabel(f"{ALPHA}, factor on the inputs (trained at 1)")
    axis.set_ylabel("accuracy")
    axis.set_ylim(0, 1.02)
    axis.grid(axis="y", alpha=0.25)
    axis.legend(frameon=False)
    axis.set_title(
        f"{name}: MLPs under rescaled inputs, mean ± standard deviation over spaces", fontsize=10
    )
    return figure


def _layers(result: Record) -> Figure:
    records = result["records"]
    figure, (axis,) = new_figure(6.4, 4.2)
    numbers = sorted({r["layer"] for r in records})
    for i, alpha in enumerate(sorted({r["alpha"] for r in records} - {1.0})):
        cosines = [select(records, layer=n, alpha=alpha)[0]["cosine"] for n in numbers]
        axis.plot(
            numbers, cosines, color=PALETTE[i], marker=MARKERS[i], label=f"{ALPHA} = {alpha:g}"
        )
    axis.set_xlabel("layer whose input is scaled")
    axis.set_ylabel("cosine of the embedding with the unscaled one")
    axis.set_xticks(numbers)
    axis.set_ylim(0, 1.02)
    axis.grid(axis="y", alpha=0.25)
    axis.legend(frameon=False)
    axis.set_title(f"{result['model']}: layers under rescaling", fontsize=10)
    return figure


DrawPlot = Callable[[Record, str], Figure | None]
PLOTS: Final[Mapping[str, tuple[str, DrawPlot]]] = {
    "methods": ("translation", methods_plot),
    "anchors": ("translation", anchors_plot),
    "inversion": ("inversion", inversion_plot),
    "sensitivity": ("sensitivity", sensitivity_plot),
    "prediction": ("prediction", prediction_plot),
    "reliability": ("confidence", _reliability),
    "norms": ("norms", _norms),
    "scale": ("scale", _scale),
    "modalities": ("modalities", modalities_plot),
    "relevance": ("relevance", relevance_plot),
}
