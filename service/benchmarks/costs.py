"""Costs of starting the service, of fitting a pair of spaces, and of compiled models."""

import os
import statistics
import time
from compileall import compile_dir
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

import stitchwork
from benchmarks.measure import (
    MEASURED_CORE,
    BenchmarkContext,
    BenchmarkResult,
    measuring_process,
    on_core,
    time_in_turns,
)
from stitchwork.client import Floats
from stitchwork.evaluation.image_datasets import digits
from stitchwork.evaluation.peers import LATENTIS
from stitchwork.evaluation.sentences import sentences
from stitchwork.geometry.bridges import BridgeName, FittedSpace, compose
from stitchwork.geometry.frame import Frame
from stitchwork.models.encoder import inference_mode
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.resources import EncoderSpec, ImageEncoder, Item, TextEncoder
from stitchwork.supervisor import Plan, start

PACKAGE: Final = Path(stitchwork.__file__).parent
ANCHORS: Final = 2000
WIDTH: Final = 1280
LATENT: Final = 200
FITTED_BRIDGES: Final[tuple[BridgeName, ...]] = ("ridge", "exp")
MAX_SHARE: Final = 0.5
"""Maximum time of a bridge as a share of latentis' time."""
SCRIPT: Final = Path(__file__).with_name("peers") / "with_latentis.py"
TEXTS: Final = (1, 32)
IMAGES: Final = (1, 16)
MEBIBYTE: Final = 1024 * 1024


def starting(context: BenchmarkContext) -> list[BenchmarkResult]:
    """Seconds until the service is ready on a new data directory, and the API's memory then.

    The package is compiled beforehand, as `pip` compiles what it installs: Python would otherwise
    compile a checkout at each start, where `PYTHONDONTWRITEBYTECODE` is set.
    """
    compile_dir(PACKAGE, quiet=1)
    seconds: dict[int, list[float]] = {0: [], 1: []}
    memory: dict[str, list[float]] = {}
    for _ in range(context.rounds):
        for workers, durations in seconds.items():
            with TemporaryDirectory(prefix="stitchwork-benchmark-") as folder:
                env = {"STITCHWORK_LOG_LEVEL": "error"}
                plan = Plan(port=0, data_dir=Path(folder), workers=workers, env=env)
                start_time = time.perf_counter()
                with start(plan) as service:
                    durations.append(time.perf_counter() - start_time)
                    for name, pid in {**service.pids, "supervisor": service.pid}.items():
                        memory.setdefault(name, []).append(resident_bytes(pid) / MEBIBYTE)
    details = {
        "ready with a worker, s": round(statistics.median(seconds[1]), 2),
        "resident, MiB": {name: round(statistics.median(sizes)) for name, sizes in memory.items()},
    }
    return [
        BenchmarkResult(
            "start", "ready after serve, no worker", "s", seconds[0], [], 5.0, False, details
        ),
        BenchmarkResult(
            "start", "resident memory of the API", "MiB", memory["api"], [], 150.0, False
        ),
    ]


def fitting(context: BenchmarkContext) -> list[BenchmarkResult]:
    """Frames, inverses and the map of two spaces, against latentis on the same anchors."""
    python = context.peer(LATENTIS)
    if python is None:
        return []
    x, y = noisy_anchors()
    ours: dict[BridgeName, list[float]] = {bridge: [] for bridge in FITTED_BRIDGES}
    partner: list[float] = []
    with TemporaryDirectory(prefix="stitchwork-benchmark-") as folder:
        path = Path(folder) / "anchors.npz"
        np.savez(path, x=x, y=y)
        with (
            measuring_process([str(python), str(SCRIPT), str(path)], MEASURED_CORE) as fit_latentis,
            on_core(MEASURED_CORE),
        ):
            # The first round only warms up.
            for i in range(context.rounds + 1):
                for bridge, durations in ours.items():
                    seconds = _fit_seconds(bridge, x, y)
                    durations += [seconds] if i else []
                seconds = fit_latentis("")
                partner += [seconds] if i else []
    details = {"anchors": ANCHORS, "width": WIDTH, "threads": 1}
    baseline = "latentis Procrustes"
    return [
        BenchmarkResult(
            f"fit and fuse, {bridge}",
            baseline,
            "s",
            ours[bridge],
            partner,
            MAX_SHARE,
            False,
            details,
        )
        for bridge in FITTED_BRIDGES
    ]


def compiling(context: BenchmarkContext) -> list[BenchmarkResult]:
    """A model's forward pass, compiled for the CPU, against torch on the same inputs."""
    results: list[BenchmarkResult] = []
    with TemporaryDirectory(prefix="stitchwork-benchmark-") as folder, on_core(MEASURED_CORE):
        weights = write_efficientnet_lite("tf_efficientnet_lite0", Path(folder))
        image = ImageEncoder(kind="timm", model="tf_efficientnet_lite0", weights=str(weights))
        text = TextEncoder(model=str(minilm_folder()))
        workloads: list[tuple[str, EncoderSpec, list[Item], tuple[int, ...]]] = [
            ("texts", text, list(sentences(TEXTS[-1])), TEXTS),
            ("images", image, list(digits().train[: IMAGES[-1]]), IMAGES),
        ]
        for name, spec, items, sizes in workloads:
            roots = [Path(folder), minilm_folder()]
            encoders = [
                EncoderCache("cpu", roots, offline=True, compile_models=compiled).get(spec)
                for compiled in (True, False)
            ]
            for encoder in encoders:
                encoder.wait_until_compiled()
            details = {"loaded in s": [round(encoder.seconds, 2) for encoder in encoders]}
            for size in sizes:
                passes = [partial(_forward, encoder, items[:size]) for encoder in encoders]
                compiled, plain = time_in_turns(passes, context.rounds, 10)
                case = f"compiled pass, {size} {name}"
                results.append(
                    BenchmarkResult(case, "torch", "ms", compiled, plain, 1.0, False, details)
                )
    return results


def noisy_anchors() -> tuple[Floats, Floats]:
    """Anchors of two spaces of the same 2,000 inputs, with independent noise."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(ANCHORS, LATENT))
    x, y = (
        inputs @ rng.normal(size=(LATENT, WIDTH)) + 0.3 * rng.normal(size=(ANCHORS, WIDTH))
        for _ in range(2)
    )
    return x.astype(np.float32), y.astype(np.float32)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes, including what it shares with others."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _fit_seconds(bridge: BridgeName, x: Floats, y: Floats) -> float:
    start_time = time.perf_counter()
    compose(bridge, FittedSpace(Frame.from_anchors(x)), FittedSpace(Frame.from_anchors(y)))
    return time.perf_counter() - start_time


def _forward(loaded: LoadedEncoder, items: list[Item]) -> None:
    encoder = loaded.encoder
    inputs = encoder.prepare(items).inputs
    with inference_mode(encoder.device, encoder.dtype):
        encoder.forward(inputs)
