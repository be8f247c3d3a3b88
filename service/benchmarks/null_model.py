"""What surrounds a model: requests whose model has next to no arithmetic.

A BERT of one layer, 32 wide, with random weights. All processes of the service share the measured
core, the load has the other one. API keys, metrics and the access log are on.
"""

import contextlib
import hashlib
import itertools
import os
import secrets
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import redis

from benchmarks.load import fixed_count
from benchmarks.measure import (
    LOAD_CORE,
    MEASURED_CORE,
    BenchmarkContext,
    BenchmarkResult,
    cpu_milliseconds,
    on_core,
)
from stitchwork.client import Stitchwork
from stitchwork.evaluation.sentences import sentences
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.supervisor import Plan, ServiceProcess, start

WIDTH: Final = 32
VECTOR_WIDTH: Final = 768
ANCHORS: Final = 200
CLASSES: Final = 10
TEXTS: Final = 64
MAX_BATCH: Final = 64
STITCH: Final = "/stitch/source/head"
CPU_GOALS: Final = {"API": 0.38, "worker": 0.20, "servers": 0.08}
"""CPU milliseconds per `/stitch` of one text."""
WARM_UP: Final = 500


def null_model(context: BenchmarkContext) -> list[BenchmarkResult]:
    """The service with a model that costs next to nothing."""
    texts = sentences(512)
    single = [orjson.dumps({"items": [text]}) for text in texts]
    many = [orjson.dumps({"items": texts[i : i + TEXTS]}) for i in range(0, 512 - TEXTS, 16)]
    embeddings = [orjson.dumps({"model": "source", "input": text}) for text in texts]
    rows = np.random.default_rng(2).normal(size=(256, VECTOR_WIDTH)).round(4)
    translate = [
        orjson.dumps(
            {"source": "x", "target": "y", "bridge": "ridge", "embeddings": [row.tolist()]}
        )
        for row in rows
    ]
    with tempfile.TemporaryDirectory(prefix="stitchwork-benchmark-") as name:
        folder = Path(name)
        with _service(folder) as (running, key):
            load = _Load(running, key, context.rounds)
            return [
                *load.rates("null: /stitch, 1 text", STITCH, single, 64, 6000, 1500.0),
                load.latency("null: /stitch, 1 text, 1 client", STITCH, single, 1500, 1.8),
                *load.rates(
                    "null: /stitch, 64 texts", STITCH, many, 8, 600, 15_000.0, inputs=TEXTS
                ),
                *load.rates(
                    "null: /v1/embeddings, 1 text", "/v1/embeddings", embeddings, 64, 6000, 1500.0
                ),
                *load.rates("null: /translate, 1 row", "/translate", translate, 32, 6000, 2000.0),
                load.registry_reads(translate),
            ]


class _Load:
    """Measures of one service.

    Args:
        running: The service.
        key: An API key.
        rounds: Number of measured rounds.
    """

    def __init__(self, running: ServiceProcess, key: str, rounds: int) -> None:
        self._running = running
        self._rounds = rounds
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def _send(
        self, path: str, bodies: Sequence[bytes], clients: int, requests: int
    ) -> tuple[float, list[float]]:
        """Seconds for so many requests, and the duration of each."""
        numbers = itertools.cycle(bodies)
        return fixed_count(
            self._running.url,
            path,
            [next(numbers) for _ in range(requests)],
            clients,
            self._headers,
        )

    def rates(
        self,
        case: str,
        path: str,
        bodies: Sequence[bytes],
        clients: int,
        requests: int,
        goal: float,
        *,
        inputs: int = 1,
    ) -> list[BenchmarkResult]:
        """Requests or inputs per second, and the CPU time of a request."""
        self._send(path, bodies, clients, min(WARM_UP, requests))
        rates, costs = [], list[dict[str, float]]()
        for _ in range(self._rounds):
            before = cpu_milliseconds(self._running)
            seconds, _ = self._send(path, bodies, clients, requests)
            after = cpu_milliseconds(self._running)
            rates.append(inputs * requests / seconds)
            costs.append({part: (after[part] - before[part]) / requests for part in after})
        details = {"clients": clients}
        unit = "req/s" if inputs == 1 else "inputs/s"
        results = [
            BenchmarkResult(
                *(case, "one core", unit, rates, [], goal, True, details), cpu_ms=_medians(costs)
            )
        ]
        if path == STITCH and inputs == 1:
            for part, bound in CPU_GOALS.items():
                values = [cost[part] for cost in costs]
                results.append(
                    BenchmarkResult(f"{case}, {part}", "CPU", "ms", values, [], bound, False)
                )
        return results

    def latency(
        self, case: str, path: str, bodies: Sequence[bytes], requests: int, goal: float
    ) -> BenchmarkResult:
        """The median duration of a request of one client."""
        medians, last, costs = list[float](), list[float](), list[dict[str, float]]()
        for _ in range(self._rounds):
            before = cpu_milliseconds(self._running)
            _, last = self._send(path, bodies, 1, requests)
            after = cpu_milliseconds(self._running)
            medians.append(statistics.median(last) * 1000)
            costs.append({part: (after[part] - before[part]) / requests for part in after})
        details = {"p99 ms": round(float(np.percentile(last, 99)) * 1000, 2)}
        return BenchmarkResult(
            *(case, "p50", "ms", medians, [], goal, False, details), cpu_ms=_medians(costs)
        )

    def registry_reads(self, bodies: Sequence[bytes]) -> BenchmarkResult:
        """Commands that the registry got for each of 10,000 requests in steady state."""
        url = self._running.redis_url or ""
        with redis.Redis.from_url(url) as registry:
            before = _commands(registry)
            self._send("/translate", bodies, 32, 10_000)
            after = _commands(registry)
        counts = {name: after[name] - before.get(name, 0) for name in after}
        # What is sent by the clock and not by the request is told apart by its number.
        details = {name: count for name, count in counts.items() if count}
        reads = sum(count for count in details.values() if count >= 1000) / 10_000
        case = "null: registry reads per /translate"
        return BenchmarkResult(case, "INFO commandstats", "reads", [reads], [], 0.0, False, details)


def _medians(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each part's cost over rounds."""
    return {part: statistics.median(cost[part] for cost in costs) for part in costs[0]}


def _commands(registry: "redis.Redis") -> dict[str, int]:
    statistics_: Any = registry.info("commandstats")
    return {
        name.removeprefix("cmdstat_"): int(fields["calls"]) for name, fields in statistics_.items()
    }


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[tuple[ServiceProcess, str]]:
    """A service on one core, with its resources registered, and an API key."""
    write_null_model(folder / "null")
    key = secrets.token_urlsafe(24)
    key_file = folder / "keys"
    key_file.write_text(f"benchmark admin {hashlib.sha256(key.encode()).hexdigest()}\n")
    plan = Plan(
        port=0,
        data_dir=Path(tempfile.mkdtemp(dir=folder)),
        env={
            "STITCHWORK_MODEL_ROOTS": str(folder),
            "STITCHWORK_KEY_FILE": str(key_file),
            "STITCHWORK_BLAS_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        },
    )
    with on_core(MEASURED_CORE), _logs_in(folder / "log"):
        running = start(plan)
    with running:
        os.sched_setaffinity(0, {LOAD_CORE})
        _register(running, key, folder)
        yield running, key


@contextlib.contextmanager
def _logs_in(path: Path) -> Iterator[None]:
    """Processes that are started within the context write their logs to a file."""
    before = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _register(running: ServiceProcess, key: str, folder: Path) -> None:
    rng = np.random.default_rng(0)
    texts = sentences(ANCHORS)
    with Stitchwork(running.url, key=key) as client:
        client.put_anchor_set("anchors", "text", items=texts)
        spec = {"kind": "transformers", "model": str(folder / "null")}
        client.put_space("source", "anchors", encoder=spec)
        for name in ("target", "x", "y"):
            width = WIDTH if name == "target" else VECTOR_WIDTH
            rows = rng.normal(size=(ANCHORS, width)).astype(np.float32)
            client.put_space(name, "anchors", anchors=rows)
        client.wait("spaces", "source")
        weight = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
        labels = [str(i) for i in range(CLASSES)]
        client.put_head("head", "target", arrays={"weight": weight}, labels=labels)


def write_null_model(folder: Path) -> None:
    """Write a BERT of one layer with random weights, with the tokenizer of MiniLM."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    source = minilm_folder()
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    vocabulary = len((source / "vocab.txt").read_text().splitlines())
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
    )
    BertModel(config).save_pretrained(folder)
