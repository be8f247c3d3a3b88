"""Measurements of forward passes in this process: equality, batch sizes and memory."""

import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from benchmarks.gpu.models import BenchmarkModel
from stitchwork.models.batching import MAX_SUBMITTED, Batcher
from stitchwork.models.cuda_graphs import CudaGraphPass
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.memory import release_memory, synchronize
from stitchwork.telemetry import Metrics

MIN_COSINE: Final = 0.999
"""Least cosine of a row in half precision and the same row in float32."""
BATCH_SIZES: Final = (1, 4, 16, 64, 256)
PASSES: Final = 5
SMALL_BATCHES: Final = (1, 3, 8)
SPARE_GPU_BYTES, SPARE_CPU_BYTES = 1 << 29, 1 << 26
"""Memory that remains to a device that is to run out of it."""


class Figure(NamedTuple):
    """A row of the table.

    Attributes:
        step: What was measured.
        model: Of which model.
        value: The result, with its unit.
        goal: What is expected of a GPU; empty for a figure without a goal.
        is_met: Whether the goal is met.
    """

    step: str
    model: str
    value: str
    goal: str = ""
    is_met: bool = True


class LocalEncoder(NamedTuple):
    """A model in this process, as a worker runs it.

    Attributes:
        model: The model.
        encoder: Its encoder.
        batcher: Its batches.
    """

    model: BenchmarkModel
    encoder: Any
    batcher: Batcher


def load(model: BenchmarkModel, device: torch.device) -> LocalEncoder:
    """Load a model on a device, in float32 unless a context says otherwise."""
    encoders = EncoderCache(str(device), [model.files.parent], offline=True, compile_models=False)
    loaded = encoders.get(model.spec)
    return LocalEncoder(model, loaded.encoder, loaded.batcher)


@torch.inference_mode()
def equality(model: BenchmarkModel, device: torch.device) -> Iterator[Figure]:
    """Least cosines of the rows on a device, in each data type, and those of the CPU in float32."""
    reference, local = load(model, torch.device("cpu")), load(model, device)
    inputs = reference.encoder.prepare(model.items(max(SMALL_BATCHES))).inputs
    expected = reference.encoder.forward(inputs).float()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        is_half = dtype != torch.float32
        with torch.autocast(device.type, dtype, enabled=is_half):
            rows = local.encoder.forward(inputs).float().cpu()
            yield _equal(f"equal to the CPU, {name}", model, expected, rows)
            if device.type == "cuda":
                plain = local.encoder.forward_pass
                local.encoder.forward_pass = CudaGraphPass(plain, model.name, 512)
                # The first pass of a size captures it, the second replays it.
                parts = [local.encoder.forward(inputs[:n]).float().cpu() for n in SMALL_BATCHES * 2]
                local.encoder.forward_pass = plain
                whole = torch.cat([expected[:n] for n in SMALL_BATCHES * 2])
                yield _equal(f"equal as a CUDA graph, {name}", model, whole, torch.cat(parts))


def _equal(step: str, model: BenchmarkModel, expected: torch.Tensor, rows: torch.Tensor) -> Figure:
    cosine = float(torch.nn.functional.cosine_similarity(expected, rows).min())
    goal = f"cosine ≥ {MIN_COSINE}"
    return Figure(step, model.name, f"cosine {cosine:.6f}", goal, cosine >= MIN_COSINE)


def batch_sizes(local: LocalEncoder, sizes: Sequence[int]) -> tuple[Figure, int, float]:
    """The batch size of the peak inputs a second in the bare pass.

    Returns:
        The row of the table, the size, and its inputs per second.
    """
    rates = {size: size / bare_seconds(local, size) for size in sizes}
    best = max(rates, key=lambda size: rates[size])
    listed = ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.items())
    return (
        Figure("inputs/s of the bare pass, by batch", local.model.name, listed),
        best,
        rates[best],
    )


def bare_seconds(local: LocalEncoder, size: int) -> float:
    """Seconds of a forward pass alone; its inputs are on the device already."""
    encoder = local.encoder
    captured = list[tuple[torch.Tensor, ...]]()
    plain = encoder.forward_pass

    def capture(*inputs: torch.Tensor) -> torch.Tensor:
        captured.append(inputs)
        rows: torch.Tensor = plain(*inputs)
        return rows

    prepared = encoder.prepare(local.model.items(size)).inputs
    with half_precision(encoder.device):
        encoder.forward_pass = capture
        encoder.forward(prepared)
        encoder.forward_pass = plain
        seconds = list[float]()
        for _ in range(PASSES):
            synchronize(encoder.device)
            began = time.perf_counter()
            plain(*captured[0])
            synchronize(encoder.device)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """No gradients and, on a GPU, bfloat16."""
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
    ):
        yield


def batched(local: LocalEncoder, size: int, count: int, bare_rate: float) -> Iterator[Figure]:
    """Inputs per second of the worker's batches, with copies, and the tokens in flight."""
    prepared = local.encoder.prepare(local.model.items(count))
    local.batcher.embed(prepared, size)
    began = time.perf_counter()
    local.batcher.embed(prepared, size)
    rate = count / (time.perf_counter() - began)
    ratio = rate / bare_rate
    yield Figure(
        "batches with copies, against the bare pass",
        local.model.name,
        f"{rate:.0f} inputs/s, {ratio:.2f}",
        "≥ 0.95",
        ratio >= 0.95,
    )
    if prepared.tokens:
        largest = max(len(ids) for ids in prepared.inputs)
        in_flight = MAX_SUBMITTED if local.encoder.device.type == "cuda" else 1
        yield Figure("tokens in flight", local.model.name, f"{in_flight * size * largest}")


def out_of_memory(model: BenchmarkModel, device: torch.device, count: int) -> Iterator[Figure]:
    """What a batch that does not fit the device costs, and whether its rows are right."""
    metrics = Metrics()
    local = load(model, device)
    # It knows of no time yet, by which it would make smaller batches.
    batcher = Batcher(local.encoder, metrics)
    text = " ".join(str(item) for item in model.items(64))
    prepared = local.encoder.prepare([text] * count, truncate=True)
    with limited_memory(device):
        began = time.perf_counter()
        rows = batcher.embed(prepared, count)
    seconds = time.perf_counter() - began
    expected = local.batcher.embed(prepared.split([1])[0], 1)
    splits = metrics.registry.get_sample_value("stitchwork_batch_splits_total") or 0.0
    cosine = float(torch.nn.functional.cosine_similarity(rows, expected).min())
    is_right = splits > 0 and cosine >= MIN_COSINE
    yield Figure(
        "out of memory: the batch is split",
        model.name,
        f"{splits:.0f} splits, {seconds:.1f} s, cosine {cosine:.6f}",
        "> 0 splits, equal rows",
        is_right,
    )
    again = batcher.embed(prepared.split([8])[0], 8)
    recovered = bool(torch.allclose(again, expected.expand_as(again), atol=1e-2))
    yield Figure("recovery after it", model.name, "yes" if recovered else "no", "yes", recovered)


@contextmanager
def limited_memory(device: torch.device) -> Iterator[None]:
    """Leave a device little memory beside what is in use."""
    release_memory(device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        used = torch.cuda.memory_reserved(device)
        torch.cuda.set_per_process_memory_fraction((used + SPARE_GPU_BYTES) / total, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_CPU_BYTES, limits[1]))
    try:
        # oneDNN does not say of its errors that memory is lacking.
        with torch.backends.mkldnn.flags(enabled=False):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def mixed_load(
    models: Sequence[BenchmarkModel], device: torch.device, rounds: int
) -> Iterator[Figure]:
    """Ten models in turns, of which half fit: the memory stays within its limit."""
    sizes = [load(model, device).encoder.nbytes for model in models]
    limit = sum(sizes) // 2
    encoders = EncoderCache(
        str(device),
        [model.files.parent for model in models],
        offline=True,
        compile_models=False,
        memory_bytes=limit,
    )
    peak = 0
    began = time.perf_counter()
    for _ in range(rounds):
        for model in models:
            loaded = encoders.get(model.spec)
            loaded.batcher.embed(loaded.encoder.prepare(model.items(8)), 8)
            peak = max(peak, encoders.nbytes())
    seconds = (time.perf_counter() - began) / (rounds * len(models))
    yield Figure(
        f"{len(models)} models in turns, half of them fit",
        "all",
        f"{peak >> 20} of {limit >> 20} MiB, {seconds:.2f} s a model",
        "within the limit",
        peak <= limit,
    )
    if device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(device)
        yield Figure("largest memory that was reserved", "all", f"{reserved >> 20} MiB")
