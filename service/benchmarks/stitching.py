"""Raw inputs: `/stitch` and `/embed` against the forward pass and against other servers."""

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import orjson

from benchmarks.cores import pinned_worker_command
from benchmarks.load import DEADLINE, WARM_UP_SECONDS, Target, closed_loop_rate, request_in_turns
from benchmarks.measure import (
    LOAD_CORE,
    MEASURED_CORE,
    BenchmarkContext,
    BenchmarkResult,
    cpu_milliseconds,
    measuring_process,
    on_core,
)
from stitchwork.client import Stitchwork, json_items
from stitchwork.errors import UnavailableError
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
STARTUP_SECONDS: Final = 180.0
POLL_SECONDS: Final = 0.5
GRACE_SECONDS: Final = 20.0
JSON: Final = {"Content-Type": "application/json"}
PEERS: Final = Path(__file__).with_name("peers")


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
            "one text, p50", baseline, "ms", ours, partner, 3.0, False, {}, is_difference=True
        )
    ]


def other_servers(context: BenchmarkContext) -> list[BenchmarkResult]:
    """`/embed` against Infinity, `/stitch` against LitServe and Ray Serve, each on one core."""
    items = list[Item](sentences(512))
    results = []
    with tempfile.TemporaryDirectory(prefix="stitchwork-benchmark-") as name:
        folder = Path(name)
        with service(folder, minilm_spec(), items, core=MEASURED_CORE) as running:
            pipeline = folder / "pipeline.npz"
            _write_pipeline(pipeline)
            bodies = {
                "/stitch/source/head": [orjson.dumps({"items": [t], "top": 1}) for t in items],
                "/embed/source": [orjson.dumps({"items": [t]}) for t in items],
            }
            peers = (
                ("infinity", "/embed/source", "/embeddings", _infinity_command, 1.2),
                (
                    "litserve",
                    "/stitch/source/head",
                    "/stitch",
                    _script_command("with_litserve.py"),
                    1.2,
                ),
                ("ray", "/stitch/source/head", "/stitch", _script_command("with_ray.py"), 5.0),
            )
            for peer, path, peer_path, command, goal in peers:
                python = context.peer(peer)
                if python is None:
                    continue
                peer_bodies = [_peer_body(peer, str(text)) for text in items]
                with _peer_server(command(python, pipeline), peer_path, peer_bodies[0]) as (
                    url,
                    session,
                ):
                    ours, partner, per_request, idle = [], [], dict[str, float](), 0.0
                    for i in range(context.rounds + 1):
                        before = cpu_milliseconds(running)
                        with _suspended(session):
                            rate = closed_loop_rate(running.url, path, bodies[path], SECONDS)
                        per_request = _milliseconds_per_request(running, before, rate)
                        before = cpu_milliseconds(running)
                        peer_rate = closed_loop_rate(url, peer_path, peer_bodies, SECONDS)
                        idle = sum(cpu_milliseconds(running).values()) - sum(before.values())
                        if i:
                            ours.append(rate)
                            partner.append(peer_rate)
                details = {
                    "clients": CLIENTS,
                    "texts per request": 1,
                    "processes of each": "1 core",
                    "CPU ms per request": per_request,
                    # Of the service while the peer is measured; the peer is suspended meanwhile.
                    "idle CPU ms per second": round(idle / (SECONDS + WARM_UP_SECONDS), 1),
                }
                case = f"{path.split('/')[1]} beside {peer}"
                baseline = f"{peer}, the same model and texts"
                results.append(
                    BenchmarkResult(case, baseline, "req/s", ours, partner, goal, True, details)
                )
    return results


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


def _milliseconds_per_request(
    running: ServiceProcess, before: dict[str, float], rate: float
) -> dict[str, float]:
    """CPU milliseconds of each part of the service per request, warm-up included."""
    requests = rate * (SECONDS + WARM_UP_SECONDS)
    return {
        name: round((ms - before[name]) / requests, 2)
        for name, ms in cpu_milliseconds(running).items()
    }


def _stitch_rate(url: str, items: list[Item], batch: int, seconds: float) -> float:
    """Inputs per second of `/stitch`."""
    starts = range(0, len(items) - batch + 1, batch)
    parts = [items[start : start + batch] for start in starts]
    bodies = [orjson.dumps({"items": json_items(part), "top": 1}) for part in parts]
    return batch * closed_loop_rate(url, "/stitch/source/head", bodies, seconds)


def _peer_body(peer: str, text: str) -> bytes:
    return orjson.dumps({"model": "model", "input": [text]} if peer == "infinity" else [text])


@contextlib.contextmanager
def _peer_server(command: list[str], path: str, body: bytes) -> Iterator[tuple[str, int]]:
    """Another server with all its processes on the measured core, once it responds.

    Yields:
        Its URL, and the id of the session of all its processes.

    Raises:
        UnavailableError: If it does not respond in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with tempfile.TemporaryFile() as output, on_core(MEASURED_CORE):
        process = subprocess.Popen(  # noqa: S603
            [part.replace("PORT", port) for part in command],
            env=env,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + STARTUP_SECONDS
        while not _is_up(url + path, body):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"{command[:2]} did not start")
            time.sleep(POLL_SECONDS)
        yield url, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _suspended(session: int) -> Iterator[None]:
    """Suspend all processes of a session within the context: some poll for work all the time."""
    pids = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(ProcessLookupError):
            if path.name.isdigit() and os.getsid(int(path.name)) == session:
                os.kill(int(path.name), signal.SIGSTOP)
                pids.append(int(path.name))
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _is_up(url: str, body: bytes) -> bool:
    try:
        return httpx.post(url, content=body, headers=JSON, timeout=DEADLINE).is_success
    except httpx.TransportError:
        return False


def _infinity_command(python: Path, pipeline: Path) -> list[str]:
    options = ("--engine", "torch", "--device", "cpu", "--dtype", "float32", "--batch-size", "32")
    model = ("--model-id", str(minilm_folder()), "--served-model-name", "model")
    command = str(python.with_name("infinity_emb"))
    return [command, "v2", *model, *options, "--no-bettertransformer", "--port", "PORT"]


def _script_command(script: str) -> Callable[[Path, Path], list[str]]:
    def command(python: Path, pipeline: Path) -> list[str]:
        return [str(python), str(PEERS / script), "PORT", str(minilm_folder()), str(pipeline)]

    return command


def _write_pipeline(path: Path) -> None:
    """Write a map and a head of the same widths; the values do not affect the time."""
    rng = np.random.default_rng(0)
    floats: dict[str, Any] = {
        "matrix": rng.normal(size=(WIDTH, WIDTH)),
        "offset": np.zeros(WIDTH),
        "mean": np.zeros(WIDTH),
        "scale": np.ones(()),
        "weight": rng.normal(size=(CLASSES, WIDTH)),
        "bias": np.zeros(CLASSES),
    }
    np.savez(path, **{name: value.astype(np.float32) for name, value in floats.items()})
