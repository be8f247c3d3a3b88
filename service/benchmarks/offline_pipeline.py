"""The worker's own pipeline without the service: what `/stitch` is measured against.

`python -m benchmarks.offline_pipeline REDIS_URL QUEUE_URL ROOTS ENCODER HEAD ITEMS` reads
lines `BATCH SECONDS` and answers each with the inputs it classified per second, in batches of that
size, and `one SECONDS` with the milliseconds that one input alone took, at the median.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Final

from stitchwork.errors import QueueUnavailableError, RegistryUnavailableError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from stitchwork.geometry.classifier import probabilities
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.models.batching import Batcher
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.redis.client import RedisClient
from stitchwork.redis.serialization import unpack
from stitchwork.registry.registry import Registry
from stitchwork.resources import Item, unpack_items

CALL_SECONDS: Final = 30.0
SORTED: Final = 4


def main(redis_url: str, queue_url: str, roots: str, encoder: str, head: str, items: str) -> None:
    """Load everything, then run whatever batch sizes standard input asks for."""
    registry = Registry(
        RedisClient(redis_url, CALL_SECONDS, RegistryUnavailableError),
        durable=False,
        stale_seconds=0,
    )
    inverses = InverseCache(RedisClient(queue_url, CALL_SECONDS, QueueUnavailableError), 1)
    (scoring,), _ = registry.heads.ready(head)
    (source, target), _ = registry.spaces.ready(encoder, scoring.space)
    assert source.encoder is not None  # noqa: S101
    catalog = EncoderCache("cpu", [Path(root) for root in roots.split(":")], offline=True)
    found = catalog.get(source.encoder)
    # Anew, so that it takes every batch size as it is told to.
    batcher = Batcher(found.encoder)
    place = catalog.to_device
    through = Translator(registry, inverses, 1 << 30, place).pair_map(
        source, target, DEFAULT_BRIDGE
    )
    classifier = ClassifierCache(registry, place=place).get(scoring)
    arrays, _ = unpack(Path(items).read_bytes())
    inputs = unpack_items(arrays, source.encoder.modality)

    def classify(batch: list[Item], size: int) -> None:
        rows = batcher.embed(found.encoder.prepare(batch), size)
        probabilities(classifier.logits(through.apply(place(rows)).rows))

    def one(seconds: float) -> float:
        taken: list[float] = []
        while sum(taken) < seconds:
            began = time.perf_counter()
            classify(inputs[:1], 1)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken) * 1000

    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        size, seconds = line.split()
        if size == "one":
            print(one(float(seconds)), flush=True)  # noqa: T201
            continue
        done, at, began = 0, 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < float(seconds):
            # A few batches together, so that inputs of like size can share one, as anyone would.
            batch = [inputs[(at + i) % len(inputs)] for i in range(SORTED * int(size))]
            classify(batch, int(size))
            done, at = done + len(batch), at + len(batch)
        print(done / spent, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
