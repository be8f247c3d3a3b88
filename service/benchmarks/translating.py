"""The path of a vector: `/translate` against the product alone, and servers that do less."""

import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from safetensors.numpy import save

from benchmarks.measure import (
    THEIRS,
    Result,
    Round,
    Target,
    in_turns,
    on_core,
    pin_api,
    started,
    turns,
)
from stitchwork.client import SAFETENSORS, Floats, Stitchwork
from stitchwork.geometry.bridges import (
    BridgeName,
    FactorParameters,
    FittedSpace,
    compose,
    compute_inverse,
    required_inverses,
)
from stitchwork.geometry.coverage import Coverage
from stitchwork.geometry.frame import Frame
from stitchwork.inference.translator import PairMap
from stitchwork.supervisor import Plan, ServiceProcess, start

ROWS: Final = 4096
FEW: Final = 64
WIDTH: Final = 768
ANCHORS: Final = 2000
BINARY: Final = {"Content-Type": SAFETENSORS}
JSON: Final = {"Content-Type": "application/json"}
MAP_GOAL: Final = 1.15


def anchors(count: int = ANCHORS, width: int = WIDTH) -> tuple[Floats, Floats]:
    """Anchors of two spaces that differ by a rotation and some noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, width)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    y = x @ turn + 0.1 * rng.normal(size=(count, width))
    return x, y.astype(np.float32)


def rows(count: int, width: int = WIDTH) -> Floats:
    """Rows of the first of these spaces."""
    return np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)


def in_process(ask: Round) -> list[Result]:
    """One map in this process against its products alone and one pass over the rows."""
    found = []
    x = rows(ROWS)
    for bridge in ("ridge", "exp"):
        way = way_of(bridge, *anchors())
        factors = _factors(way)

        def products(factors: list[Floats] = factors) -> None:
            y = x
            for matrix in factors:
                y = y @ matrix
            np.copyto(np.empty_like(x), x)

        with on_core(THEIRS):
            works: list[Callable[[], object]] = [
                partial(way.map.apply, x),
                products,
                partial(way.apply, x),
            ]
            ours, partner, covered = turns(works, ask.rounds, 8)
        shape = " and ".join(f"{ROWS}x{a.shape[0]}x{a.shape[1]}" for a in factors)
        what = f"numpy.matmul of {shape}, and the rows copied once"
        both = statistics.median(covered) / statistics.median(partner)
        facts = {"anchors": ANCHORS, "threads": 1, "ratio with coverage": round(both, 3)}
        found.append(Result(f"map, {bridge}", what, "ms", ours, partner, MAP_GOAL, False, facts))
    return found


def over_http(ask: Round) -> list[Result]:
    """`/translate` against servers that do less."""
    many, few, one = (rows(count) for count in (ROWS, FEW, 1))
    binary, small = (save({"embeddings": part}) for part in (many, few))
    with serving() as running, _bare() as bare:
        path = "/translate?source=x&target=y"
        ridge = f"{path}&bridge=ridge"
        lists = Target(bare, "/lists", _json(few), JSON)
        cases = {
            f"{ROWS}x{WIDTH} safetensors": (
                Target(running.url, ridge, binary, BINARY),
                Target(bare, "/product", binary, BINARY),
                "uvicorn with that product alone",
                (16, 2, 0.90),
            ),
            f"{FEW}x{WIDTH} safetensors": (
                Target(running.url, ridge, small, BINARY),
                lists,
                "FastAPI's default list path",
                (200, 1, 8.0),
            ),
            f"{FEW}x{WIDTH} JSON": (
                Target(running.url, "/translate", _json(few, _named("ridge")), JSON),
                lists,
                "FastAPI's default list path",
                (200, 1, 2.5),
            ),
        }
        found = []
        for case, (ours, theirs, what, (requests, clients, goal)) in cases.items():
            own, other = in_turns([ours, theirs], ask.rounds, requests, clients)
            facts = {"ours": own.facts, "partner": other.facts, "clients": clients}
            rates = (own.rates, other.rates)
            found.append(Result(f"translate {case}", what, "req/s", *rates, goal, True, facts))
        own, other = in_turns(
            [
                Target(running.url, "/translate", _json(one, _named("ridge")), JSON),
                Target(bare, "/constant"),
            ],
            ask.rounds,
            800,
        )
        facts = {"ours": own.facts, "partner": other.facts}
        what = "a FastAPI route that returns a constant"
        medians = (own.medians, other.medians)
        case = f"translate 1x{WIDTH} JSON, p50"
        return [*found, Result(case, what, "ms", *medians, 2.0, False, facts)]


def health(ask: Round) -> list[Result]:
    """`/health/live` while large translations run."""
    body = save({"embeddings": rows(ROWS)})
    with serving() as running:
        live = Target(running.url, "/health/live")
        busy = Target(running.url, "/translate?source=x&target=y&bridge=ridge", body, BINARY)
        ended = threading.Event()

        def load() -> None:
            while not ended.is_set():
                in_turns([busy], 1, 8, 2)

        loading = threading.Thread(target=load)
        loading.start()
        try:
            found = [in_turns([live], 1, 800)[0] for _ in range(ask.rounds)]
        finally:
            ended.set()
            loading.join()
    slowest = [timing.percentile(99) for timing in found]
    facts = {"rows": ROWS, "translations at a time": 2}
    what = f"while translations of {ROWS}x{WIDTH} run"
    return [Result("health p99", what, "ms", slowest, [], 20.0, False, facts)]


def spaces(ask: Round) -> list[Result]:
    """`/translate` beside a thousand more spaces against `/translate` without them."""
    rng = np.random.default_rng(0)
    body = save({"embeddings": rows(FEW, 384)})
    path = "/translate?source=x&target=y"
    with serving(500, 384) as few, serving(500, 384) as many:
        began = time.monotonic()
        with Stitchwork(many.url) as registering:
            for i in range(1000):
                more = rng.normal(size=(64, 32)).astype(np.float32)
                registering.put_space(f"more-{i}", "more", anchors=more)
        took = time.monotonic() - began
        targets = [Target(running.url, path, body, BINARY) for running in (many, few)]
        ours, partner = (found.medians for found in in_turns(targets, ask.rounds, 300))
    facts = {"seconds to register 1,000 spaces": round(took, 1), "rows": FEW, "width": 384}
    what = "/translate with only two spaces registered"
    return [Result("1,000 spaces, p50", what, "ms", ours, partner, 1.10, False, facts)]


@contextlib.contextmanager
def serving(count: int = ANCHORS, width: int = WIDTH) -> Iterator[ServiceProcess]:
    """A service with two spaces, `x` and `y`, its API on the core of what is measured."""
    env = {"STITCHWORK_LOG_LEVEL": "error", "STITCHWORK_BLAS_THREADS": "1"}
    with (
        tempfile.TemporaryDirectory(prefix="stitchwork-bench-") as name,
        start(Plan(port=0, data_dir=Path(name), workers=0, env=env)) as running,
    ):
        with Stitchwork(running.url) as registering:
            for space, given in zip("xy", anchors(count, width), strict=True):
                registering.put_space(space, "set", anchors=given)
        pin_api(running)
        yield running


@contextlib.contextmanager
def _bare() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.bare_server", str(WIDTH)]
    with started(command, THEIRS) as (_, _, said):
        yield f"http://127.0.0.1:{said[0]}"


def way_of(bridge: BridgeName, x: Floats, y: Floats) -> PairMap:
    """As the translator of a process makes it."""
    parameters = FactorParameters()
    source, target = (
        FittedSpace(
            seen, parameters, None if name is None else compute_inverse(name, seen, parameters)
        )
        for name, seen in zip(
            required_inverses(bridge), (Frame.from_anchors(x), Frame.from_anchors(y)), strict=True
        )
    )
    return PairMap(compose(bridge, source, target), Coverage.from_frame(source.frame))


def _factors(way: PairMap) -> list[Floats]:
    names = ("matrix", "landmarks", "weights")
    return [getattr(way.map, name) for name in names if hasattr(way.map, name)]


def _named(bridge: BridgeName) -> dict[str, Any]:
    return {"source": "x", "target": "y", "bridge": bridge}


def _json(embeddings: Floats, told: Mapping[str, Any] | None = None) -> bytes:
    body = {"embeddings": embeddings, **(told or {})}
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
