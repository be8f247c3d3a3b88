"""Vectors: `/translate` against the matrix product alone and against minimal servers."""

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

from benchmarks.load import Target, request_in_turns
from benchmarks.measure import (
    MEASURED_CORE,
    BenchmarkContext,
    BenchmarkResult,
    on_core,
    pin_api,
    ready_process,
    time_in_turns,
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
SMALL_BATCH: Final = 64
WIDTH: Final = 768
ANCHORS: Final = 2000
BINARY: Final = {"Content-Type": SAFETENSORS}
JSON: Final = {"Content-Type": "application/json"}
MAP_GOAL: Final = 1.15


def anchors(count: int = ANCHORS, width: int = WIDTH) -> tuple[Floats, Floats]:
    """Anchors of two spaces that differ by a rotation and some noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, width)).astype(np.float32)
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    y = x @ rotation + 0.1 * rng.normal(size=(count, width))
    return x, y.astype(np.float32)


def rows(count: int, width: int = WIDTH) -> Floats:
    """Rows of the first space."""
    return np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)


def in_process(context: BenchmarkContext) -> list[BenchmarkResult]:
    """A map in this process against its matrix products alone and one copy of the rows."""
    results = []
    x = rows(ROWS)
    for bridge in ("ridge", "exp"):
        pair_map = make_pair_map(bridge, *anchors())
        matrices = _matrices(pair_map)

        def products(matrices: list[Floats] = matrices) -> None:
            y = x
            for matrix in matrices:
                y = y @ matrix
            np.copyto(np.empty_like(x), x)

        with on_core(MEASURED_CORE):
            functions: list[Callable[[], object]] = [
                partial(pair_map.map.apply, x),
                products,
                partial(pair_map.apply, x),
            ]
            ours, partner, with_coverage = time_in_turns(functions, context.rounds, 8)
        shape = " and ".join(f"{ROWS}x{a.shape[0]}x{a.shape[1]}" for a in matrices)
        baseline = f"numpy.matmul of {shape}, and one copy of the rows"
        ratio = statistics.median(with_coverage) / statistics.median(partner)
        details = {"anchors": ANCHORS, "threads": 1, "ratio with coverage": round(ratio, 3)}
        results.append(
            BenchmarkResult(
                f"map, {bridge}", baseline, "ms", ours, partner, MAP_GOAL, False, details
            )
        )
    return results


def over_http(context: BenchmarkContext) -> list[BenchmarkResult]:
    """`/translate` against minimal servers."""
    large, small, one = (rows(count) for count in (ROWS, SMALL_BATCH, 1))
    large_body, small_body = (save({"embeddings": part}) for part in (large, small))
    with translation_service() as running, _bare_server() as bare:
        path = "/translate?source=x&target=y"
        ridge = f"{path}&bridge=ridge"
        lists = Target(bare, "/lists", _json_body(small), JSON)
        cases = {
            f"{ROWS}x{WIDTH} safetensors": (
                Target(running.url, ridge, large_body, BINARY),
                Target(bare, "/product", large_body, BINARY),
                "uvicorn with that product alone",
                (16, 2, 0.90),
            ),
            f"{SMALL_BATCH}x{WIDTH} safetensors": (
                Target(running.url, ridge, small_body, BINARY),
                Target(bare, "/product", small_body, BINARY),
                "uvicorn with that product alone",
                (400, 1, 0.85),
            ),
            f"{SMALL_BATCH}x{WIDTH} safetensors beside lists": (
                Target(running.url, ridge, small_body, BINARY),
                lists,
                "FastAPI's default list path",
                (200, 1, 8.0),
            ),
            f"{SMALL_BATCH}x{WIDTH} JSON": (
                Target(running.url, "/translate", _json_body(small, _pair_fields("ridge")), JSON),
                lists,
                "FastAPI's default list path",
                (200, 1, 2.5),
            ),
        }
        results = []
        for case, (target, other, baseline, (requests, clients, goal)) in cases.items():
            ours, partner = request_in_turns([target, other], context.rounds, requests, clients)
            details = {"ours": ours.details, "partner": partner.details, "clients": clients}
            rates = (ours.rates, partner.rates)
            results.append(
                BenchmarkResult(f"translate {case}", baseline, "req/s", *rates, goal, True, details)
            )
        ours, partner = request_in_turns(
            [
                Target(running.url, "/translate", _json_body(one, _pair_fields("ridge")), JSON),
                Target(bare, "/constant"),
            ],
            context.rounds,
            800,
        )
        details = {"ours": ours.details, "partner": partner.details}
        baseline = "a FastAPI route that returns a constant"
        medians = (ours.medians, partner.medians)
        case = f"translate 1x{WIDTH} JSON, p50"
        return [*results, BenchmarkResult(case, baseline, "ms", *medians, 2.5, False, details)]


def health(context: BenchmarkContext) -> list[BenchmarkResult]:
    """`/health/live` while large translations run."""
    body = save({"embeddings": rows(ROWS)})
    with translation_service() as running:
        live = Target(running.url, "/health/live")
        translate = Target(running.url, "/translate?source=x&target=y&bridge=ridge", body, BINARY)
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                request_in_turns([translate], 1, 8, 2)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            timings = [request_in_turns([live], 1, 800)[0] for _ in range(context.rounds)]
        finally:
            stop.set()
            thread.join()
    percentiles = [timing.percentile(99) for timing in timings]
    details = {"rows": ROWS, "translations at a time": 2}
    condition = f"while translations of {ROWS}x{WIDTH} run"
    return [BenchmarkResult("health p99", condition, "ms", percentiles, [], 20.0, False, details)]


def spaces(context: BenchmarkContext) -> list[BenchmarkResult]:
    """`/translate` with a thousand more spaces registered against `/translate` without them."""
    rng = np.random.default_rng(0)
    body = save({"embeddings": rows(SMALL_BATCH, 384)})
    path = "/translate?source=x&target=y"
    with translation_service(500, 384) as few, translation_service(500, 384) as many:
        start_time = time.monotonic()
        with Stitchwork(many.url) as client:
            for i in range(1000):
                other = rng.normal(size=(64, 32)).astype(np.float32)
                client.put_space(f"other-{i}", "others", anchors=other)
        seconds = time.monotonic() - start_time
        targets = [Target(running.url, path, body, BINARY) for running in (many, few)]
        ours, partner = (
            timing.medians for timing in request_in_turns(targets, context.rounds, 300)
        )
    details = {
        "seconds to register 1,000 spaces": round(seconds, 1),
        "rows": SMALL_BATCH,
        "width": 384,
    }
    baseline = "/translate with only two spaces registered"
    return [
        BenchmarkResult("1,000 spaces, p50", baseline, "ms", ours, partner, 1.10, False, details)
    ]


@contextlib.contextmanager
def translation_service(count: int = ANCHORS, width: int = WIDTH) -> Iterator[ServiceProcess]:
    """A service with two spaces, `x` and `y`, its API on the measured core."""
    env = {"STITCHWORK_LOG_LEVEL": "error", "STITCHWORK_BLAS_THREADS": "1"}
    with (
        tempfile.TemporaryDirectory(prefix="stitchwork-benchmark-") as name,
        start(Plan(port=0, data_dir=Path(name), workers=0, env=env)) as running,
    ):
        with Stitchwork(running.url) as client:
            for space, rows_of_space in zip("xy", anchors(count, width), strict=True):
                client.put_space(space, "set", anchors=rows_of_space)
        pin_api(running)
        yield running


@contextlib.contextmanager
def _bare_server() -> Iterator[str]:
    command = [sys.executable, "-P", "-m", "benchmarks.bare_server", str(WIDTH)]
    with ready_process(command, MEASURED_CORE) as (_, _, lines):
        yield f"http://127.0.0.1:{lines[0]}"


def make_pair_map(bridge: BridgeName, x: Floats, y: Floats) -> PairMap:
    """A pair map as the service's translator makes it."""
    parameters = FactorParameters()
    source, target = (
        FittedSpace(
            frame, parameters, None if name is None else compute_inverse(name, frame, parameters)
        )
        for name, frame in zip(
            required_inverses(bridge), (Frame.from_anchors(x), Frame.from_anchors(y)), strict=True
        )
    )
    return PairMap(compose(bridge, source, target), Coverage.from_frame(source.frame))


def _matrices(pair_map: PairMap) -> list[Floats]:
    names = ("matrix", "landmarks", "weights")
    return [getattr(pair_map.map, name) for name in names if hasattr(pair_map.map, name)]


def _pair_fields(bridge: BridgeName) -> dict[str, Any]:
    return {"source": "x", "target": "y", "bridge": bridge}


def _json_body(embeddings: Floats, fields: Mapping[str, Any] | None = None) -> bytes:
    body = {"embeddings": embeddings, **(fields or {})}
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
