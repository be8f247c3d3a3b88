"""Scaling laws: measurements over one size at a time, against what theory predicts."""

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

from benchmarks.load import Target, closed_loop_rate, request_in_turns
from benchmarks.measure import MEASURED_CORE, BenchmarkContext, on_core, time_in_turns
from benchmarks.stitching import SECONDS, minilm_spec, service
from benchmarks.translating import BINARY, anchors, make_pair_map, rows, translation_service
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
DOTS_PER_INCH: Final = 130


@dataclass(frozen=True)
class Law:
    """One scaling law.

    Attributes:
        variable: What varies.
        measure: What is measured, with its unit.
        sizes: Values of the variable.
        measured: Medians over rounds.
        theory: Prediction at the same sizes.
        explanation: The theory in words.
    """

    variable: str
    measure: str
    sizes: list[int]
    measured: list[float]
    theory: list[float]
    explanation: str


def measure_laws(context: BenchmarkContext, folder: Path) -> list[Law]:
    """Measure every law, plot them in `scaling.png`, and write `scaling.json`.

    Args:
        context: How laws are measured.
        folder: Folder of the files.
    """
    laws = []
    for measure in (over_rows, over_width, over_anchors, over_spaces, over_clients, over_workers):
        law = measure(context)
        context.log(f"  {law.variable}: {_formatted(law.measured)} {law.measure}")
        laws.append(law)
    folder.mkdir(parents=True, exist_ok=True)
    _draw(laws, folder / "scaling.png")
    (folder / "scaling.json").write_text(json.dumps([asdict(law) for law in laws], indent=2) + "\n")
    return laws


def over_rows(context: BenchmarkContext) -> Law:
    """A map of 768 x 768 over the number of rows: one product and a fixed cost."""
    return _map_law(context, "rows n, ridge, d = 768", COUNTS, lambda n: ("ridge", n, 768, 2000))


def over_width(context: BenchmarkContext) -> Law:
    """1,024 rows over the width of both spaces."""
    return _map_law(
        context, "width d, ridge, n = 1024", WIDTHS, lambda d: ("ridge", 1024, d, 2 * d)
    )


def over_anchors(context: BenchmarkContext) -> Law:
    """1,024 rows of width 384 by the `exp` bridge, over the number of anchors."""
    return _map_law(
        context, "anchors k, exp, n = 1024, d = 384", ANCHORS, lambda k: ("exp", 1024, 384, k)
    )


def over_spaces(context: BenchmarkContext) -> Law:
    """`/translate` of 64 rows over the number of registered spaces: constant."""
    body, sizes, measured = save({"embeddings": rows(64, 384)}), list(SPACES), []
    with translation_service(500, 384) as running, Stitchwork(running.url) as client:
        rng, registered = np.random.default_rng(0), 2
        for size in sizes:
            for i in range(registered, size):
                other = rng.normal(size=(64, 32)).astype(np.float32)
                client.put_space(f"other-{i}", "others", anchors=other)
            registered = size
            target = Target(running.url, "/translate?source=x&target=y", body, BINARY)
            measured.append(_median(request_in_turns([target], context.rounds, 200)[0].medians))
    theory = [measured[0]] * len(sizes)
    return Law("spaces, 64 rows of 384", "ms p50", sizes, measured, theory, "no change")


def over_clients(context: BenchmarkContext) -> Law:
    """`/translate` of 64 rows over the number of clients of one API process."""
    body, sizes, rates = save({"embeddings": rows(64, 384)}), list(CLIENTS), []
    with translation_service(500, 384) as running:
        target = Target(running.url, "/translate?source=x&target=y", body, BINARY)
        for size in sizes:
            rates.append(_median(request_in_turns([target], context.rounds, 400, size)[0].rates))
    theory = [min(size * rates[0], max(rates)) for size in sizes]
    explanation = "proportional, up to the rate of one core"
    return Law("clients, one API, 64 rows of 384", "requests/s", sizes, rates, theory, explanation)


def over_workers(context: BenchmarkContext) -> Law:
    """`/stitch` of texts over the number of workers, with one core each."""
    items, measured = sentences(512), []
    bodies = [
        orjson.dumps({"items": items[start : start + 16], "top": 1})
        for start in range(0, len(items), 16)
    ]
    for workers in WORKERS:
        with (
            tempfile.TemporaryDirectory(prefix="stitchwork-benchmark-") as folder,
            service(Path(folder), minilm_spec(), items, workers=workers) as running,
        ):
            path = "/stitch/source/head"
            rates = [
                16 * closed_loop_rate(running.url, path, bodies, SECONDS)
                for _ in range(context.rounds)
            ]
            measured.append(_median(rates))
    theory = [measured[0] * workers for workers in WORKERS]
    explanation = "proportional; the second core is shared with the load"
    return Law("workers, texts", "inputs/s", list(WORKERS), measured, theory, explanation)


def _map_law(
    context: BenchmarkContext,
    variable: str,
    sizes: Sequence[int],
    shape: Callable[[int], tuple[BridgeName, int, int, int]],
) -> Law:
    """A map in this process against its products at the rate of a large product."""
    measured, work = [], []
    with on_core(MEASURED_CORE):
        rate = _flops_per_second(context)
        for size in sizes:
            bridge, count, width, k = shape(size)
            pair_map, x = make_pair_map(bridge, *anchors(k, width)), rows(count, width)
            calls = max(3, min(50, int(2e9 / (count * width * width))))
            measured.append(
                _median(time_in_turns([partial(pair_map.apply, x)], context.rounds, calls)[0])
            )
            inner = width if bridge == "ridge" else 2 * min(k, 2048)
            work.append(2.0 * count * width * inner)
    theory = [1000 * flops / rate for flops in work]
    explanation = "its products alone, at numpy's best rate"
    return Law(variable, "ms", list(sizes), measured, theory, explanation)


def _flops_per_second(context: BenchmarkContext) -> float:
    """Floating-point operations per second of a large product."""
    x, y = rows(2048, 1024), rows(1024, 1024)
    durations = time_in_turns([lambda: x @ y], context.rounds, 5)[0]
    return float(2 * x.shape[0] * x.shape[1] * y.shape[1] / (min(durations) / 1000))


def _draw(laws: Sequence[Law], path: Path) -> None:
    figure, axes = new_figure(4.2 * len(laws) / 2, 7.2, len(laws) // 2, rows=2)
    for axis, law in zip(axes, laws, strict=True):
        scale: Literal["log", "linear"] = "log" if len(law.sizes) > 2 else "linear"
        axis.plot(law.sizes, law.theory, "--", color=PALETTE[6], label=law.explanation)
        axis.plot(law.sizes, law.measured, "o-", color=PALETTE[0], label="measured")
        axis.set(xlabel=law.variable, ylabel=law.measure, xscale=scale, yscale=scale)
        if law.explanation == "no change" or scale == "linear":
            axis.set(yscale="linear", ylim=(0, 1.25 * max(*law.measured, *law.theory)))
        axis.set_xticks(law.sizes, [f"{size:,}" for size in law.sizes], rotation=45)
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _formatted(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)
