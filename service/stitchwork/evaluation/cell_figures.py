"""Plots of the cells of a report, and of moved stores of judged documents."""

import math
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from stitchwork.evaluation.cells import CELL_MEASURES, cells
from stitchwork.evaluation.experiments.methods import ABSOLUTE
from stitchwork.evaluation.experiments.study import Record
from stitchwork.evaluation.figures import COLOURS, MARKERS, PALETTE, new_figure
from stitchwork.evaluation.summary import methods, select, values
from stitchwork.geometry.bridges import DEFAULT_BRIDGE

VERDICT_COLOURS: Final = {"above": PALETTE[2], "level": PALETTE[6], "below": PALETTE[3]}
COLUMNS: Final = 4


def cells_plot(results: Record) -> Figure | None:
    """The default's difference from the best other method in each cell, with its interval."""
    all_cells = cells(results)
    measures = [m for m in CELL_MEASURES if any(cell.measure == m for cell in all_cells)]
    rows = list(dict.fromkeys((cell.data, cell.k) for cell in all_cells))
    if not rows:
        return None
    panel_rows = math.ceil(len(measures) / COLUMNS)
    figure, axes = new_figure(15, (0.9 + 0.24 * len(rows)) * panel_rows + 0.6, COLUMNS, panel_rows)
    for i, axis in enumerate(axes):
        if i >= len(measures):
            axis.set_visible(False)
            continue
        measure = measures[i]
        for cell in (cell for cell in all_cells if cell.measure == measure):
            y = rows.index((cell.data, cell.k))
            axis.errorbar(
                cell.difference,
                y,
                xerr=cell.half_width if math.isfinite(cell.half_width) else None,
                fmt="o",
                markersize=5,
                capsize=2,
                color=VERDICT_COLOURS[cell.verdict],
            )
        axis.axvline(0, color="#333333", linewidth=1)
        axis.set_title(CELL_MEASURES[measure], fontsize=10)
        labels = [f"{name}, {k:,}" for name, k in rows] if i % COLUMNS == 0 else []
        axis.set_yticks(range(len(rows)), labels, fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="x", alpha=0.25)
        axis.tick_params(axis="x", labelsize=8)
    figure.suptitle(
        f"{DEFAULT_BRIDGE} minus the best other method, by data and number of anchors, with 95% "
        "intervals over draws (green above, grey level, orange below)",
        fontsize=11,
    )
    return figure


def relevance_plot(data: Record, name: str) -> Figure | None:
    """Share of embedding anew against the number of anchors, one panel for each pair and way."""
    result = data["experiments"]["relevance"]
    pairs = list(dict.fromkeys((r["source"], r["target"]) for r in result["records"]))[:2]
    panels = [
        (pair, measure, title)
        for pair in pairs
        for measure, title in (("store_share", "moved store"), ("query_share", "moved queries"))
    ]
    figure, axes = new_figure(1.5 + 3.6 * len(panels), 4.6, len(panels))
    for axis, ((x, y), measure, title) in zip(axes, panels, strict=True):
        records = select(result["records"], source=x, target=y)
        for i, method in enumerate(name for name in methods(records) if name != ABSOLUTE):
            means = [
                float(np.mean(values(select(records, k=k, method=method), measure)))
                for k in result["sizes"]
            ]
            axis.plot(
                result["sizes"],
                means,
                color=COLOURS.get(method, PALETTE[i % len(PALETTE)]),
                marker=MARKERS[i % len(MARKERS)],
                markersize=5,
                linewidth=2.4 if method == DEFAULT_BRIDGE else 1.3,
                linestyle="-" if not method.startswith("both") else "--",
                label=method,
            )
        axis.axhline(1, color="#333333", linestyle=":", linewidth=1.2)
        axis.set_xscale("log")
        axis.set_xticks(result["sizes"], [f"{k:,}" for k in result["sizes"]], fontsize=8)
        axis.minorticks_off()
        axis.set_title(f"{x} → {y}: {title}", fontsize=10)
        axis.set_xlabel("anchors, k")
        axis.grid(axis="y", alpha=0.25)
    axes[0].set_ylabel("nDCG@10, as a share of embedding anew")
    axes[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{name}: what a searcher finds, mean over draws (dotted: embedding anew)")
    return figure
