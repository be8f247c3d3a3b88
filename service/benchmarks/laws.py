"""Scaling laws: what is measured over one size at a time, and the line that theory gives."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import orjson
from safetensors.numpy import save

from benchmarks.measure import THEIRS, Round, Target, closed, in_turns, on_core, turns
from benchmarks.stitching import SECONDS, minilm, service
from benchmarks.translating import BINARY, anchors, rows, serving, way_of
from stitchwork.client import Stitchwork
from stitchwork.evaluation.figures import PALETTE, new_figure
from stitchwork.evaluation.sentences import sentences
from stitchwork.geometry.bridges import BridgeName

COUNTS: Final = (16, 64, 256, 1024, 4096, 16384)
WIDTHS: Final = (128, 256, 512, 1024, 2048)
ANCHORS: Final = (125, 250, 500, 1000, 2000)
SPACES: Final = (2, 10, 100, 1000)
CLIENTS: Final = (1, 2, 4, 8, 16, 32, 64)
WORKERS: Final = (1, 2)
DOTS: Final = 130


@dataclass(frozen=True)
class Law:
    """One panel.

    Attributes:
        over: What varies.
        figure: What is measured.
        sizes: Its values.
        measured: Medians over rounds.
        theory: What theory gives at the same sizes.
        says: The theory, in words.
    """

    over: str
    figure: str
    sizes: list[int]
    measured: list[float]
    theory: list[float]
    says: str


def scaling(ask: Round, folder: Path) -> list[Law]:
    """Measure every law, draw them into `scaling.png`, write `scaling.json`.

    Args:
        ask: How often to measure.
        folder: Where the files go.
    """
    laws = []
    for law in (over_rows, over_width, over_anchors, over_spaces, over_clients, over_workers):
        found = law(ask)
        ask.say(f"  {found.over}: {_figures(found.measured)} {found.figure}")
        laws.append(found)
    folder.mkdir(parents=True, exist_ok=True)
    _draw(laws, folder / "scaling.png")
    (folder / "scaling.json").write_text(json.dumps([asdict(law) for law in laws], indent=2) + "\n")
    return laws


def over_rows(ask: Round) -> Law:
    """A map of 768 x 768 over the number of rows: one product, and a fixed cost before it."""
    return _maps(ask, "rows n, ridge, d = 768", COUNTS, lambda n: ("ridge", n, 768, 2000))


def over_width(ask: Round) -> Law:
    """1,024 rows over the width of both spaces."""
    return _maps(ask, "width d, ridge, n = 1024", WIDTHS, lambda d: ("ridge", 1024, d, 2 * d))


def over_anchors(ask: Round) -> Law:
    """1,024 rows of width 384 by the kernel bridge, over the number of anchors."""
    return _maps(ask, "anchors k, exp, n = 1024, d = 384", ANCHORS, lambda k: ("exp", 1024, 384, k))


def over_spaces(ask: Round) -> Law:
    """`/translate` of 64 rows over the number of registered spaces: flat."""
    body, sizes, measured = save({"embeddings": rows(64, 384)}), list(SPACES), []
    with serving(500, 384) as running, Stitchwork(running.url) as registering:
        rng, there = np.random.default_rng(0), 2
        for size in sizes:
            for i in range(there, size):
                more = rng.normal(size=(64, 32)).astype(np.float32)
                registering.put_space(f"more-{i}", "more", anchors=more)
            there = size
            target = Target(running.url, "/translate?source=x&target=y", body, BINARY)
            measured.append(_median(in_turns([target], ask.rounds, 200)[0].medians))
    theory = [measured[0]] * len(sizes)
    return Law("spaces, 64 rows of 384", "ms p50", sizes, measured, theory, "no change")


def over_clients(ask: Round) -> Law:
    """`/translate` of 64 rows over the number of clients of one API process."""
    body, sizes, rates = save({"embeddings": rows(64, 384)}), list(CLIENTS), []
    with serving(500, 384) as running:
        target = Target(running.url, "/translate?source=x&target=y", body, BINARY)
        for size in sizes:
            rates.append(_median(in_turns([target], ask.rounds, 400, size)[0].rates))
    theory = [min(size * rates[0], max(rates)) for size in sizes]
    says = "in proportion, up to what one core answers"
    return Law("clients, one API, 64 rows of 384", "requests/s", sizes, rates, theory, says)


def over_workers(ask: Round) -> Law:
    """`/stitch` of texts over the number of workers, a core each."""
    items, measured = sentences(512), []
    bodies = [
        orjson.dumps({"items": items[at : at + 16], "top": 1}) for at in range(0, len(items), 16)
    ]
    for workers in WORKERS:
        with (
            tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name,
            service(Path(name), minilm(), items, workers=workers) as running,
        ):
            path = "/stitch/source/head"
            rates = [16 * closed(running.url, path, bodies, SECONDS) for _ in range(ask.rounds)]
            measured.append(_median(rates))
    theory = [measured[0] * workers for workers in WORKERS]
    says = "in proportion; the second core is the load's too"
    return Law("workers, texts", "inputs/s", list(WORKERS), measured, theory, says)


def _maps(
    ask: Round,
    over: str,
    sizes: Sequence[int],
    shape: Callable[[int], tuple[BridgeName, int, int, int]],
) -> Law:
    """A map in this process against its products at the rate that the largest of them reaches."""
    measured, work = [], []
    with on_core(THEIRS):
        rate = _flops(ask)
        for size in sizes:
            bridge, count, width, k = shape(size)
            way, x = way_of(bridge, *anchors(k, width)), rows(count, width)
            times = max(3, min(50, int(2e9 / (count * width * width))))
            measured.append(_median(turns([partial(way.apply, x)], ask.rounds, times)[0]))
            inner = width if bridge == "ridge" else 2 * min(k, 2048)
            work.append(2.0 * count * width * inner)
    theory = [1000 * flops / rate for flops in work]
    says = "its products alone, at numpy's best rate"
    return Law(over, "ms", list(sizes), measured, theory, says)


def _flops(ask: Round) -> float:
    """Operations per second of a large product."""
    x, y = rows(2048, 1024), rows(1024, 1024)
    taken = turns([lambda: x @ y], ask.rounds, 5)[0]
    return float(2 * x.shape[0] * x.shape[1] * y.shape[1] / (min(taken) / 1000))


def _draw(laws: Sequence[Law], path: Path) -> None:
    figure, axes = new_figure(4.2 * len(laws) / 2, 7.2, len(laws) // 2, rows=2)
    for axis, law in zip(axes, laws, strict=True):
        scale: Literal["log", "linear"] = "log" if len(law.sizes) > 2 else "linear"
        axis.plot(law.sizes, law.theory, "--", color=PALETTE[6], label=law.says)
        axis.plot(law.sizes, law.measured, "o-", color=PALETTE[0], label="measured")
        axis.set(xlabel=law.over, ylabel=law.figure, xscale=scale, yscale=scale)
        if law.says == "no change" or scale == "linear":
            axis.set(yscale="linear", ylim=(0, 1.25 * max(*law.measured, *law.theory)))
        axis.set_xticks(law.sizes, [f"{size:,}" for size in law.sizes], rotation=45)
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=DOTS)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _figures(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)
