"""What it costs to start the service and to fit a pair of spaces; `stitchwork bench` shows it."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from service.client import Floats
from service.geometry.bridges import BridgeName, Side, fuse
from service.geometry.relative import frame
from service.launcher import Plan, start

ANCHORS: Final = 2000
WIDTH: Final = 1280
LATENT: Final = 200
FITTED: Final[tuple[BridgeName, ...]] = ("ridge", "exp")
THEIRS: Final = "latentis Procrustes"
SCRIPT: Final = Path(__file__).with_name("latentis_fit.py")


class Started(NamedTuple):
    """What one start of the service took.

    Attributes:
        seconds: From the command to the first answer of a ready service.
        resident: Resident bytes of each process, by its name, as soon as it was ready.
    """

    seconds: float
    resident: Mapping[str, int]


def starting(rounds: int, workers: int) -> list[Started]:
    """Start and stop the service on a new data directory, without models.

    Args:
        rounds: How often.
        workers: How many workers start with it, and are waited for.
    """
    found = []
    for _ in range(rounds):
        with TemporaryDirectory(prefix="stitchwork-bench-") as folder:
            plan = Plan(
                port=0,
                data_dir=Path(folder),
                workers=workers,
                env={"STITCHWORK_LOG_LEVEL": "error"},
            )
            began = time.perf_counter()
            with start(plan) as running:
                spent = time.perf_counter() - began
                pids = running.pids | {"supervisor": running.pid}
                found.append(Started(spent, {name: resident(pid) for name, pid in pids.items()}))
    return found


def fitting(rounds: int, peer: Path | None) -> dict[str, list[float]]:
    """Frames, inverses and the fused map of two spaces, 2,000 anchors and 1,280 wide, on one core.

    Args:
        rounds: How often, in turns; what comes first only warms up.
        peer: An interpreter with latentis; None leaves it out.

    Returns:
        Seconds of each round, by bridge, and of latentis fitting its map on the same anchors.
    """
    x, y = anchors()
    found: dict[str, list[float]] = {}
    with threadpool_limits(1), TemporaryDirectory(prefix="stitchwork-bench-") as folder:
        path = Path(folder) / "anchors.npz"
        np.savez(path, x=x, y=y)
        ways: dict[str, Callable[[], float]] = {
            bridge: lambda bridge=bridge: _fused(bridge, x, y)  # type: ignore[misc]
            for bridge in FITTED
        }
        with _asked([str(peer), str(SCRIPT), str(path)] if peer else None) as theirs:
            if theirs:
                ways[THEIRS] = theirs
            for i in range(rounds + 1):
                for name, way in ways.items():
                    taken = way()
                    if i:
                        found.setdefault(name, []).append(taken)
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
    fuse(bridge, Side(frame(x)), Side(frame(y)))
    return time.perf_counter() - began


@contextmanager
def _asked(command: Sequence[str] | None) -> Iterator[Callable[[], float] | None]:
    """A process that answers each line with seconds."""
    if command is None:
        yield None
        return
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=env) as peer:  # noqa: S603
        assert peer.stdin is not None  # noqa: S101
        assert peer.stdout is not None  # noqa: S101
        told, asked = peer.stdout, peer.stdin
        while told.readline().strip() != "ready":
            if peer.poll() is not None:
                raise ValueError(f"{command[0]} {command[1]} ended with {peer.returncode}")

        def ask() -> float:
            asked.write("\n")
            asked.flush()
            return float(told.readline())

        yield ask
        asked.close()
