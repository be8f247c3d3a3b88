"""The path of an input: `/stitch` and `/embed` against the forward pass, and other servers."""

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

from benchmarks.cores import worker_on
from benchmarks.measure import (
    DEADLINE,
    OURS,
    THEIRS,
    WARM_UP_SECONDS,
    Result,
    Round,
    Target,
    asked,
    busy,
    closed,
    in_turns,
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
UP_SECONDS: Final = 180.0
PAUSE_SECONDS: Final = 0.5
GRACE_SECONDS: Final = 20.0
JSON: Final = {"Content-Type": "application/json"}
PEERS: Final = Path(__file__).with_name("peers")


def images(ask: Round) -> list[Result]:
    """`/stitch` of images under 64 clients against the same pipeline offline at its best batch."""
    from stitchwork.evaluation.image_datasets import digits

    with tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name:
        folder = Path(name)
        weights = write_efficientnet_lite("tf_efficientnet_lite0", folder)
        spec = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(weights)}
        items = list[Item](digits().train[:256])
        with service(folder, spec, items) as running:
            return [_against_offline(running, folder, "images", items, 1, ask.rounds)]


def texts(ask: Round) -> list[Result]:
    """The same of texts, sixteen to a request."""
    with tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name:
        items = list[Item](sentences(512))
        with service(Path(name), minilm(), items) as running:
            return [_against_offline(running, Path(name), "texts", items, 16, ask.rounds)]


def one_text(ask: Round) -> list[Result]:
    """`/stitch` of one text by one client against the same pass alone."""
    with tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name:
        folder, items = Path(name), list[Item](sentences(512))
        body = orjson.dumps({"items": items[:1]})
        with service(folder, minilm(), items) as running:
            target = Target(running.url, "/stitch/source/head", body, JSON)
            with _offline(running, folder, items) as offline:
                ours, partner = [], []
                for _ in range(ask.rounds):
                    partner.append(offline("one 2"))
                    ours += in_turns([target], 1, 200)[0].medians
    what = "the same pass alone; the goal is the difference"
    return [Result("one text, p50", what, "ms", ours, partner, 3.0, False, {}, difference=True)]


def beside_servers(ask: Round) -> list[Result]:
    """`/embed` against Infinity, `/stitch` against LitServe and Ray Serve: each on one core."""
    items = list[Item](sentences(512))
    found = []
    with tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name:
        folder = Path(name)
        with service(folder, minilm(), items, core=THEIRS) as running:
            stitch = folder / "stitch.npz"
            _write_stitch(stitch)
            bodies = {
                "/stitch/source/head": [orjson.dumps({"items": [t], "top": 1}) for t in items],
                "/embed/source": [orjson.dumps({"items": [t]}) for t in items],
            }
            partners = (
                ("infinity", "/embed/source", "/embeddings", _infinity, 1.2),
                ("litserve", "/stitch/source/head", "/stitch", _scripted("with_litserve.py"), 1.2),
                ("ray", "/stitch/source/head", "/stitch", _scripted("with_ray.py"), 5.0),
            )
            for peer, path, other_path, command, goal in partners:
                python = ask.peer(peer)
                if python is None:
                    continue
                theirs = [_foreign(peer, str(text)) for text in items]
                with _peer(command(python, stitch), other_path, theirs[0]) as (url, leader):
                    ours, partner, spent, rest = [], [], dict[str, float](), 0.0
                    for i in range(ask.rounds + 1):
                        before = busy(running)
                        with _still(leader):
                            rate = closed(running.url, path, bodies[path], SECONDS)
                        spent = _each(running, before, rate)
                        before = busy(running)
                        other = closed(url, other_path, theirs, SECONDS)
                        rest = sum(busy(running).values()) - sum(before.values())
                        if i:
                            ours.append(rate)
                            partner.append(other)
                facts = {
                    "clients": CLIENTS,
                    "texts per request": 1,
                    "processes of each": "1 core",
                    "ms of the core a request": spent,
                    # The partner itself is stopped while ours is measured.
                    "ms of it a second at rest": round(rest / (SECONDS + WARM_UP_SECONDS), 1),
                }
                case = f"{path.split('/')[1]} beside {peer}"
                what = f"{peer}, the same model and texts"
                found.append(Result(case, what, "req/s", ours, partner, goal, True, facts))
    return found


def minilm() -> dict[str, Any]:
    """The encoder of texts."""
    return {"kind": "transformers", "model": str(minilm_folder())}


@contextlib.contextmanager
def service(
    folder: Path, spec: dict[str, Any], items: Sequence[Item], *, core: int = OURS, workers: int = 1
) -> Iterator[ServiceProcess]:
    """A service with a stitch registered, its worker on the core of what is measured.

    Args:
        folder: For its files and the models'.
        spec: Its encoder.
        items: Their first 200 are the anchors.
        core: The one that its other processes have.
        workers: How many, a core each; the first has that of what is measured.
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
            # The line is long on purpose.
            "STITCHWORK_MAX_QUEUE_WAIT_SECONDS": f"{DEADLINE}",
        },
        worker_command=worker_on([THEIRS, OURS]),
    )
    with on_core(core):
        running = start(plan)
    with running:
        register(running, spec, items)
        yield running


def register(running: ServiceProcess, spec: dict[str, Any], items: Sequence[Item]) -> None:
    """A space `source` with the encoder, a space `target`, and a `head` in it."""
    modality = "text" if isinstance(items[0], str) else "image"
    anchors: Any = items[:200]
    with Stitchwork(running.url) as registering:
        registering.put_anchor_set("anchors", modality, items=anchors)
        registering.put_space("source", "anchors", encoder=spec)
        rows = np.random.default_rng(0).normal(size=(len(anchors), WIDTH)).astype(np.float32)
        registering.put_space("target", "anchors", anchors=rows)
        registering.wait("spaces", "source")
        weight = np.random.default_rng(1).normal(size=(CLASSES, WIDTH)).astype(np.float32)
        labels = [str(i) for i in range(CLASSES)]
        registering.put_head("head", "target", arrays={"weight": weight}, labels=labels)


def _against_offline(
    running: ServiceProcess, folder: Path, case: str, items: list[Item], each: int, rounds: int
) -> Result:
    with _offline(running, folder, items) as offline:
        tried = {size: round(offline(f"{size} 3"), 1) for size in BATCHES}
        likely = sorted(tried, key=lambda size: -tried[size])[:3]
        ours: list[float] = []
        theirs: dict[int, list[float]] = {size: [] for size in likely}
        for i in range(rounds + 1):
            rate = _throughput(running.url, items, each, SECONDS + 4)
            for size in likely:
                theirs[size].append(offline(f"{size} 3"))
            if i:
                ours.append(rate)
    # The first round only warms up.
    best = max(likely, key=lambda size: statistics.median(theirs[size][1:]))
    partner = theirs[best][1:]
    what = f"the same pipeline offline in batches of {best}"
    facts = {"inputs per request": each, "clients": CLIENTS, "offline by batch size": tried}
    return Result(case, what, "inputs/s", ours, partner, 0.95, True, facts)


@contextlib.contextmanager
def _offline(
    running: ServiceProcess, folder: Path, items: Sequence[Item]
) -> Iterator[Callable[[str], float]]:
    path = folder / "items"
    path.write_bytes(pack(pack_items(list(items)), {}))
    urls = (running.redis_url or "", running.queue_url or "")
    roots = f"{folder}:{minilm_folder()}"
    script = "benchmarks.offline_pipeline"
    command = [sys.executable, "-m", script, *urls, roots, "source", "head", str(path)]
    with asked(command, THEIRS) as ask:
        yield ask


def _each(running: ServiceProcess, before: dict[str, float], rate: float) -> dict[str, float]:
    """Milliseconds of a core that each request took of each process, warm-up included."""
    requests = rate * (SECONDS + WARM_UP_SECONDS)
    return {name: round((ms - before[name]) / requests, 2) for name, ms in busy(running).items()}


def _throughput(url: str, items: list[Item], each: int, seconds: float) -> float:
    """Inputs per second that `/stitch` answers."""
    parts = [items[at : at + each] for at in range(0, len(items) - each + 1, each)]
    bodies = [orjson.dumps({"items": json_items(part), "top": 1}) for part in parts]
    return each * closed(url, "/stitch/source/head", bodies, seconds)


def _foreign(peer: str, text: str) -> bytes:
    return orjson.dumps({"model": "model", "input": [text]} if peer == "infinity" else [text])


@contextlib.contextmanager
def _peer(command: list[str], path: str, body: bytes) -> Iterator[tuple[str, int]]:
    """Another server, all of it on the core of what is measured, once it has answered.

    Yields:
        Its address, and the process that leads the session of all its own.

    Raises:
        UnavailableError: If it does not.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with tempfile.TemporaryFile() as said, on_core(THEIRS):
        process = subprocess.Popen(  # noqa: S603
            [part.replace("PORT", port) for part in command],
            env=env,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + UP_SECONDS
        while not _answers(url + path, body):
            if process.poll() is not None or time.monotonic() > until:
                raise UnavailableError(f"{command[:2]} did not come up")
            time.sleep(PAUSE_SECONDS)
        yield url, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _still(leader: int) -> Iterator[None]:
    """Stop all processes of a session, of whichever group: some look for work all the time."""
    held = []
    for found in Path("/proc").iterdir():
        with contextlib.suppress(ProcessLookupError):
            if found.name.isdigit() and os.getsid(int(found.name)) == leader:
                os.kill(int(found.name), signal.SIGSTOP)
                held.append(int(found.name))
    try:
        yield
    finally:
        for pid in held:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _answers(url: str, body: bytes) -> bool:
    try:
        return httpx.post(url, content=body, headers=JSON, timeout=DEADLINE).is_success
    except httpx.TransportError:
        return False


def _infinity(python: Path, stitch: Path) -> list[str]:
    options = ("--engine", "torch", "--device", "cpu", "--dtype", "float32", "--batch-size", "32")
    model = ("--model-id", str(minilm_folder()), "--served-model-name", "model")
    command = str(python.with_name("infinity_emb"))
    return [command, "v2", *model, *options, "--no-bettertransformer", "--port", "PORT"]


def _scripted(script: str) -> Callable[[Path, Path], list[str]]:
    def command(python: Path, stitch: Path) -> list[str]:
        return [str(python), str(PEERS / script), "PORT", str(minilm_folder()), str(stitch)]

    return command


def _write_stitch(path: Path) -> None:
    """A fused map and a head of the widths of ours; what the numbers are costs nobody time."""
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
