"""Raw inputs: `/stitch` against the forward pass."""

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from benchmarks.cores import pinned_worker_command
from benchmarks.load import DEADLINE, Target, closed_loop_rate, request_in_turns
from benchmarks.measure import (
    LOAD_CORE,
    MEASURED_CORE,
    BenchmarkContext,
    BenchmarkResult,
    measuring_process,
    on_core,
)
from stitchwork.client import Stitchwork, json_items
from stitchwork.evaluation.sentences import sentences
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.redis.serialization import pack
from stitchwork.resources import Item, pack_items
from stitchwork.supervisor import Plan, ServiceProcess, start

CLIENTS: Final = 64
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
SECONDS: Final = 8.0
WIDTH: Final = 384
CLASSES: Final = 10
JSON: Final = {"Content-Type": "application/json"}


def images(context: BenchmarkContext) -> list[BenchmarkResult]:
    """`/stitch` of images under 64 clients against the same pipeline offline at its best batch."""
    from stitchwork.evaluation.image_datasets import digits

    with tempfile.TemporaryDirectory(prefix="stitchwork-benchmark-") as name:
        folder = Path(name)
        weights = write_efficientnet_lite("tf_efficientnet_lite0", folder)
        spec = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(weights)}
        items = list[Item](digits().train[:256])
        with service(folder, spec, items) as running:
            return [_compare_with_offline(running, folder, "images", items, 1, context.rounds)]


def texts(context: BenchmarkContext) -> list[BenchmarkResult]:
    """The same of texts, with sixteen in a request."""
    with tempfile.TemporaryDirectory(prefix="stitchwork-benchmark-") as name:
        items = list[Item](sentences(512))
        with service(Path(name), minilm_spec(), items) as running:
            return [_compare_with_offline(running, Path(name), "texts", items, 16, context.rounds)]


def one_text(context: BenchmarkContext) -> list[BenchmarkResult]:
    """`/stitch` of one text by one client against the same forward pass alone."""
    with tempfile.TemporaryDirectory(prefix="stitchwork-benchmark-") as name:
        folder, items = Path(name), list[Item](sentences(512))
        body = orjson.dumps({"items": items[:1]})
        with service(folder, minilm_spec(), items) as running:
            target = Target(running.url, "/stitch/source/head", body, JSON)
            with _offline_pipeline(running, folder, items) as offline:
                ours, partner = [], []
                for _ in range(context.rounds):
                    partner.append(offline("one 2"))
                    ours += request_in_turns([target], 1, 200)[0].medians
    baseline = "the same pass alone; the goal is the difference"
    return [
        BenchmarkResult(
            "one text, p50", baseline, "ms", ours, partner, 1.5, False, {}, is_difference=True
        )
    ]


def minilm_spec() -> dict[str, Any]:
    """The spec of the text encoder."""
    return {"kind": "transformers", "model": str(minilm_folder())}


@contextlib.contextmanager
def service(
    folder: Path,
    spec: dict[str, Any],
    items: Sequence[Item],
    *,
    core: int = LOAD_CORE,
    workers: int = 1,
) -> Iterator[ServiceProcess]:
    """A service with an encoder and a head registered, its worker on the measured core.

    Args:
        folder: Folder of its files and of models.
        spec: Spec of its encoder.
        items: Inputs, the first 200 of which are the anchors.
        core: Core of its other processes.
        workers: Number of workers; the first is on the measured core, the second on the other.
    """
    plan = Plan(
        port=0,
        data_dir=Path(tempfile.mkdtemp(dir=folder)),
        workers=workers,
        env={
            "STITCHWORK_MODEL_ROOTS": f"{folder}:{minilm_folder()}",
            "STITCHWORK_LOG_LEVEL": "error",
            "STITCHWORK_BLAS_THREADS": "1",
            "STITCHWORK_REQUEST_TIMEOUT_SECONDS": f"{DEADLINE}",
            # The load makes jobs wait long on purpose.
            "STITCHWORK_MAX_QUEUE_WAIT_SECONDS": f"{DEADLINE}",
        },
        worker_command=pinned_worker_command([MEASURED_CORE, LOAD_CORE]),
    )
    with on_core(core):
        running = start(plan)
    with running:
        register(running, spec, items)
        yield running


def register(running: ServiceProcess, spec: dict[str, Any], items: Sequence[Item]) -> None:
    """Register a space `source` with the encoder, a space `target`, and a `head` in it."""
    modality = "text" if isinstance(items[0], str) else "image"
    anchors: Any = items[:200]
    with Stitchwork(running.url) as client:
        client.put_anchor_set("anchors", modality, items=anchors)
        client.put_space("source", "anchors", encoder=spec)
        rows = np.random.default_rng(0).normal(size=(len(anchors), WIDTH)).astype(np.float32)
        client.put_space("target", "anchors", anchors=rows)
        client.wait("spaces", "source")
        weight = np.random.default_rng(1).normal(size=(CLASSES, WIDTH)).astype(np.float32)
        labels = [str(i) for i in range(CLASSES)]
        client.put_head("head", "target", arrays={"weight": weight}, labels=labels)


def _compare_with_offline(
    running: ServiceProcess,
    folder: Path,
    case: str,
    items: list[Item],
    batch: int,
    rounds: int,
) -> BenchmarkResult:
    with _offline_pipeline(running, folder, items) as offline:
        rates = {size: round(offline(f"{size} 3"), 1) for size in BATCHES}
        candidates = sorted(rates, key=lambda size: -rates[size])[:3]
        ours: list[float] = []
        offline_rates: dict[int, list[float]] = {size: [] for size in candidates}
        for i in range(rounds + 1):
            rate = _stitch_rate(running.url, items, batch, SECONDS + 4)
            for size in candidates:
                offline_rates[size].append(offline(f"{size} 3"))
            if i:
                ours.append(rate)
    # The first round only warms up.
    best = max(candidates, key=lambda size: statistics.median(offline_rates[size][1:]))
    partner = offline_rates[best][1:]
    baseline = f"the same pipeline offline in batches of {best}"
    details = {"inputs per request": batch, "clients": CLIENTS, "offline by batch size": rates}
    return BenchmarkResult(case, baseline, "inputs/s", ours, partner, 0.95, True, details)


@contextlib.contextmanager
def _offline_pipeline(
    running: ServiceProcess, folder: Path, items: Sequence[Item]
) -> Iterator[Callable[[str], float]]:
    path = folder / "items"
    path.write_bytes(pack(pack_items(list(items)), {}))
    urls = (running.redis_url or "", running.queue_url or "")
    roots = f"{folder}:{minilm_folder()}"
    script = "benchmarks.offline_pipeline"
    command = [sys.executable, "-P", "-m", script, *urls, roots, "source", "head", str(path)]
    with measuring_process(command, MEASURED_CORE) as measure:
        yield measure


def _stitch_rate(url: str, items: list[Item], batch: int, seconds: float) -> float:
    """Inputs per second of `/stitch`."""
    starts = range(0, len(items) - batch + 1, batch)
    parts = [items[start : start + batch] for start in starts]
    bodies = [orjson.dumps({"items": json_items(part), "top": 1}) for part in parts]
    return batch * closed_loop_rate(url, "/stitch/source/head", bodies, seconds)
