"""What it costs to start the service, to fit a pair of spaces, and to have a model compiled."""

import os
import statistics
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from benchmarks.measure import THEIRS, Result, Round, asked, on_core, turns
from stitchwork.client import Floats
from stitchwork.evaluation.image_datasets import digits
from stitchwork.evaluation.peers import LATENTIS
from stitchwork.evaluation.sentences import sentences
from stitchwork.geometry.bridges import BridgeName, FittedSpace, compose
from stitchwork.geometry.frame import Frame
from stitchwork.models.encoder import inference_mode
from stitchwork.models.encoder_cache import EncoderCache, LoadedEncoder
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.resources import EncoderSpec, ImageEncoder, Item, TextEncoder
from stitchwork.supervisor import Plan, start

ANCHORS: Final = 2000
WIDTH: Final = 1280
LATENT: Final = 200
FITTED: Final[tuple[BridgeName, ...]] = ("ridge", "exp")
PART: Final = 0.5
"""Of latentis' time that a bridge may take."""
SCRIPT: Final = Path(__file__).with_name("peers") / "with_latentis.py"
TEXTS: Final = (1, 32)
IMAGES: Final = (1, 16)
MEBI: Final = 1024 * 1024


def starting(ask: Round) -> list[Result]:
    """Seconds until the service is ready on a new data directory, and what the API then holds."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    held: dict[str, list[float]] = {}
    for _ in range(ask.rounds):
        for workers, taken in seconds.items():
            with TemporaryDirectory(prefix="stitchwork-bench-") as folder:
                env = {"STITCHWORK_LOG_LEVEL": "error"}
                plan = Plan(port=0, data_dir=Path(folder), workers=workers, env=env)
                began = time.perf_counter()
                with start(plan) as running:
                    taken.append(time.perf_counter() - began)
                    for name, pid in {**running.pids, "supervisor": running.pid}.items():
                        held.setdefault(name, []).append(resident(pid) / MEBI)
    facts = {
        "ready with a worker, s": round(statistics.median(seconds[1]), 2),
        "resident, MiB": {name: round(statistics.median(found)) for name, found in held.items()},
    }
    return [
        Result("start", "ready after serve, no worker", "s", seconds[0], [], 5.0, False, facts),
        Result("start", "resident memory of the API", "MiB", held["api"], [], 150.0, False),
    ]


def fitting(ask: Round) -> list[Result]:
    """Frames, inverses and the fused map of two spaces, against latentis on the same anchors."""
    python = ask.peer(LATENTIS)
    if python is None:
        return []
    x, y = anchors()
    ours: dict[BridgeName, list[float]] = {bridge: [] for bridge in FITTED}
    partner: list[float] = []
    with TemporaryDirectory(prefix="stitchwork-bench-") as folder:
        path = Path(folder) / "anchors.npz"
        np.savez(path, x=x, y=y)
        with asked([str(python), str(SCRIPT), str(path)], THEIRS) as theirs, on_core(THEIRS):
            # The first round only warms up.
            for i in range(ask.rounds + 1):
                for bridge, taken in ours.items():
                    spent = _fused(bridge, x, y)
                    taken += [spent] if i else []
                spent = theirs("")
                partner += [spent] if i else []
    facts = {"anchors": ANCHORS, "width": WIDTH, "threads": 1}
    what = "latentis Procrustes"
    return [
        Result(f"fit and fuse, {bridge}", what, "s", ours[bridge], partner, PART, False, facts)
        for bridge in FITTED
    ]


def compiling(ask: Round) -> list[Result]:
    """A model's pass, compiled for the CPU, against torch's own on the same inputs."""
    found = []
    with TemporaryDirectory(prefix="stitchwork-bench-") as name, on_core(THEIRS):
        weights = write_efficientnet_lite("tf_efficientnet_lite0", Path(name))
        image = ImageEncoder(kind="timm", model="tf_efficientnet_lite0", weights=str(weights))
        text = TextEncoder(model=str(minilm_folder()))
        works: list[tuple[str, EncoderSpec, list[Item], tuple[int, ...]]] = [
            ("texts", text, list(sentences(TEXTS[-1])), TEXTS),
            ("images", image, list(digits().train[: IMAGES[-1]]), IMAGES),
        ]
        for what, spec, items, sizes in works:
            roots = [Path(name), minilm_folder()]
            both = [
                EncoderCache("cpu", roots, offline=True, compile_models=compiled).get(spec)
                for compiled in (True, False)
            ]
            facts = {"loaded in s": [round(one.seconds, 2) for one in both]}
            for size in sizes:
                passes = [partial(_passed, one, items[:size]) for one in both]
                compiled, plain = turns(passes, ask.rounds, 10)
                case = f"compiled pass, {size} {what}"
                found.append(Result(case, "torch", "ms", compiled, plain, 1.0, False, facts))
    return found


def anchors() -> tuple[Floats, Floats]:
    """Two spaces that see the same 2,000 inputs, with noise of their own."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(ANCHORS, LATENT))
    x, y = (
        inputs @ rng.normal(size=(LATENT, WIDTH)) + 0.3 * rng.normal(size=(ANCHORS, WIDTH))
        for _ in range(2)
    )
    return x.astype(np.float32), y.astype(np.float32)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds, those it shares with others included."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _fused(bridge: BridgeName, x: Floats, y: Floats) -> float:
    began = time.perf_counter()
    compose(bridge, FittedSpace(Frame.from_anchors(x)), FittedSpace(Frame.from_anchors(y)))
    return time.perf_counter() - began


def _passed(loaded: LoadedEncoder, items: list[Item]) -> None:
    encoder = loaded.encoder
    inputs = encoder.prepare(items).inputs
    with inference_mode(encoder.device):
        encoder.forward(inputs)
