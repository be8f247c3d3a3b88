"""Measurements of a running service: inputs per second and latency against the bare pass."""

import base64
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.gpu.models import BenchmarkModel
from benchmarks.gpu.passes import Figure
from benchmarks.load import fixed_count
from stitchwork.client import Stitchwork
from stitchwork.evaluation.sentences import sentences
from stitchwork.supervisor import Plan, start

ANCHORS = 32
CLIENTS = 16
TEXTS, IMAGES = 64, 8
"""Inputs of one request."""
HEADERS = {"Content-Type": "application/json"}


def serving(
    models: list[BenchmarkModel],
    device: str,
    requests: int,
    bare: dict[str, tuple[float, float]],
) -> Iterator[Figure]:
    """Load a service with one worker on a device.

    Args:
        models: The models.
        device: Name of the worker's device.
        requests: Requests of each measurement.
        bare: For each model, inputs per second of the bare pass, and its seconds for one input.
    """
    with tempfile.TemporaryDirectory(prefix="stitchwork-gpu-") as name:
        plan = Plan(
            port=0,
            data_dir=Path(name),
            env={
                "STITCHWORK_DEVICE": device,
                "STITCHWORK_MODEL_ROOTS": str(models[0].files.parent),
                "STITCHWORK_LOG_LEVEL": "warning",
                "STITCHWORK_OFFLINE": "true",
                "STITCHWORK_COMPILE_MODELS": "false",
                # A slow machine's requests wait rather than being refused.
                "STITCHWORK_MAX_QUEUE_WAIT_SECONDS": "300",
                "STITCHWORK_REQUEST_TIMEOUT_SECONDS": "300",
            },
        )
        with start(plan) as running, Stitchwork(running.url) as client:
            for number, model in enumerate(models):
                _register(client, f"m{number}", model)
                yield from _measure(running.url, f"m{number}", model, requests, bare[model.name])


def _register(client: Stitchwork, id_: str, model: BenchmarkModel) -> None:
    modality = "image" if model.architecture else "text"
    items = _json_items(model, ANCHORS) if model.architecture else sentences(ANCHORS)
    if model.architecture:
        # Anchors of a set differ; pictures repeat after sixteen.
        items = items[:16]
    client.put_anchor_set(id_, modality, items=items)
    client.put_space(id_, id_, encoder=model.spec.model_dump(exclude_defaults=True) | _kind(model))
    client.wait("spaces", id_)
    weight = np.random.default_rng(0).normal(size=(2, model.dim)).astype(np.float32)
    client.put_head(id_, id_, arrays={"weight": weight}, labels=["a", "b"])


def _kind(model: BenchmarkModel) -> dict[str, str]:
    return {"kind": "timm" if model.architecture else "transformers"}


def _json_items(model: BenchmarkModel, count: int) -> list[Any]:
    items = model.items(count)
    return [i if isinstance(i, str) else base64.b64encode(i).decode() for i in items]


def _measure(
    url: str, id_: str, model: BenchmarkModel, requests: int, bare: tuple[float, float]
) -> Iterator[Figure]:
    path, size = f"/stitch/{id_}/{id_}", IMAGES if model.architecture else TEXTS
    bare_rate, bare_seconds = bare
    many = orjson.dumps({"items": _json_items(model, size)})
    single = [orjson.dumps({"items": [item]}) for item in _json_items(model, 16)]
    fixed_count(url, path, [many] * CLIENTS, CLIENTS, HEADERS)
    seconds, _ = fixed_count(url, path, [many] * requests, CLIENTS, HEADERS)
    rate = requests * size / seconds
    ratio = rate / bare_rate
    yield Figure(
        "worker at saturation, against the bare pass",
        model.name,
        f"{rate:.0f} inputs/s, {ratio:.2f}",
        "≥ 0.95",
        ratio >= 0.95,
    )
    bodies = list(itertools.islice(itertools.cycle(single), requests))
    _, durations = fixed_count(url, path, bodies, 1, HEADERS)
    added = 1000 * (statistics.median(durations) - bare_seconds)
    yield Figure(
        "one input, one client, over the pass",
        model.name,
        f"{added:+.2f} ms",
        "≤ 2 ms",
        added <= 2,
    )
