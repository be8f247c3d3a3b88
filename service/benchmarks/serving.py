"""`/stitch` and `/embed` against other servers, each with one core for all its processes."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import numpy as np
import orjson

from benchmarks.load import DEADLINE, WARM_UP_SECONDS, closed_loop_rate
from benchmarks.measure import (
    MEASURED_CORE,
    BenchmarkContext,
    BenchmarkResult,
    cpu_milliseconds,
    on_core,
)
from benchmarks.stitching import CLASSES, CLIENTS, JSON, SECONDS, WIDTH, minilm_spec, service
from stitchwork.errors import UnavailableError
from stitchwork.evaluation.peers import SERVERS
from stitchwork.evaluation.sentences import sentences
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import Item
from stitchwork.supervisor import ServiceProcess

STARTUP_SECONDS: Final = 180.0
POLL_SECONDS: Final = 0.5
GRACE_SECONDS: Final = 20.0
OUTPUT_LINES: Final = 3
"""Lines of the output of a server that does not start, in the error."""
PEERS: Final = Path(__file__).with_name("peers")


class Peer(NamedTuple):
    """Another server, and what it is compared with.

    Attributes:
        name: Its name in `SERVERS`.
        path: Path of the service.
        peer_path: Its own path for the same work.
        command: Its command, from its interpreter and the file of the map and the head.
        goal: Bound of the ratio of the rates.
        dtype: Dtype of its model; float32 is its default.
    """

    name: str
    path: str
    peer_path: str
    command: Callable[[Path, Path], list[str]]
    goal: float
    dtype: str = "float32"


def other_servers(context: BenchmarkContext) -> list[BenchmarkResult]:
    """`/embed` against Infinity, `/stitch` against LitServe and Ray Serve, each on one core."""
    items = list[Item](sentences(512))
    results = []
    with tempfile.TemporaryDirectory(prefix="stitchwork-benchmark-") as name:
        folder = Path(name)
        with service(folder, minilm_spec(), items, core=MEASURED_CORE) as running:
            pipeline = folder / "pipeline.npz"
            _write_pipeline(pipeline)
            for peer in _peers():
                python = context.peer(peer.name)
                if python is None:
                    continue
                with context.attempt(f"{peer.name} in {peer.dtype}"):
                    command = peer.command(python, pipeline)
                    results.append(_beside(running, peer, command, items, context.rounds))
    return results


def _peers() -> list[Peer]:
    embed, stitch = ("/embed/source", "/embeddings"), ("/stitch/source/head", "/stitch")
    litserve, best = "with_litserve.py", "bfloat16"
    return [
        Peer("infinity", *embed, _infinity_command("float32"), 2.5),
        Peer("infinity", *embed, _infinity_command(best), 1.3, best),
        Peer("litserve", *stitch, _script_command(litserve), 2.5),
        Peer("litserve", *stitch, _script_command(litserve, best), 1.3, best),
        Peer("ray", *stitch, _script_command("with_ray.py"), 5.0),
    ]


def _beside(
    running: ServiceProcess, peer: Peer, command: list[str], items: Sequence[Item], rounds: int
) -> BenchmarkResult:
    """Requests per second of the service and of another server, in turns."""
    options = {"top": 1} if peer.path.startswith("/stitch") else {}
    bodies = [orjson.dumps({"items": [text], **options}) for text in items]
    peer_bodies = [_peer_body(peer.name, str(text)) for text in items]
    ours, partner, per_request, idle = [], [], dict[str, float](), 0.0
    with _peer_server(command, peer.peer_path, peer_bodies[0]) as (url, session):
        for i in range(rounds + 1):
            before = cpu_milliseconds(running)
            with _suspended(session):
                rate = closed_loop_rate(running.url, peer.path, bodies, SECONDS)
            per_request = _milliseconds_per_request(running, before, rate)
            before = cpu_milliseconds(running)
            peer_rate = closed_loop_rate(url, peer.peer_path, peer_bodies, SECONDS)
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
    case = f"{peer.path.split('/')[1]} beside {peer.name}"
    if peer.dtype != "float32":
        case += f" in {peer.dtype}"
    version = SERVERS[peer.name].partition("==")[2]
    baseline = f"{peer.name} {version}, the same model and texts"
    return BenchmarkResult(case, baseline, "req/s", ours, partner, peer.goal, True, details)


def _milliseconds_per_request(
    running: ServiceProcess, before: dict[str, float], rate: float
) -> dict[str, float]:
    """CPU milliseconds of each part of the service per request, warm-up included."""
    requests = rate * (SECONDS + WARM_UP_SECONDS)
    return {
        name: round((ms - before[name]) / requests, 2)
        for name, ms in cpu_milliseconds(running).items()
    }


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
    with tempfile.TemporaryFile() as output:
        with on_core(MEASURED_CORE):
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
                    output.seek(0)
                    lines = output.read().decode(errors="replace").splitlines()[-OUTPUT_LINES:]
                    raise UnavailableError(f"{command[:2]} did not start: {' / '.join(lines)}")
                time.sleep(POLL_SECONDS)
            yield url, process.pid
        finally:
            # It may have ended, with all of its session.
            with contextlib.suppress(ProcessLookupError):
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


def _infinity_command(dtype: str) -> Callable[[Path, Path], list[str]]:
    def command(python: Path, pipeline: Path) -> list[str]:
        options = ("--engine", "torch", "--device", "cpu", "--dtype", dtype, "--batch-size", "32")
        model = ("--model-id", str(minilm_folder()), "--served-model-name", "model")
        program = str(python.with_name("infinity_emb"))
        return [program, "v2", *model, *options, "--no-bettertransformer", "--port", "PORT"]

    return command


def _script_command(script: str, *arguments: str) -> Callable[[Path, Path], list[str]]:
    def command(python: Path, pipeline: Path) -> list[str]:
        files = (str(minilm_folder()), str(pipeline))
        return [str(python), str(PEERS / script), "PORT", *files, *arguments]

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
