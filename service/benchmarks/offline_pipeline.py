"""The worker's pipeline without the service, as the baseline of `/stitch`.

`python -m benchmarks.offline_pipeline REDIS_URL QUEUE_URL ROOTS ENCODER HEAD ITEMS` reads lines
`BATCH SECONDS` and replies to each with inputs classified per second, in batches of that size, and
to `one SECONDS` with the median milliseconds of one input alone.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Final

from stitchwork.errors import QueueUnavailableError, RegistryUnavailableError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.models.batching import Batcher
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.redis.client import RedisClient
from stitchwork.redis.serialization import unpack
from stitchwork.registry.registry import Registry
from stitchwork.resources import Item, unpack_items

CALL_SECONDS: Final = 30.0
SORTED_BATCHES: Final = 4


def main(redis_url: str, queue_url: str, roots: str, encoder: str, head: str, items: str) -> None:
    """Load everything, then run the batch sizes on standard input."""
    registry = Registry(
        RedisClient(redis_url, CALL_SECONDS, RegistryUnavailableError),
        durable=False,
        stale_seconds=0,
    )
    inverses = InverseCache(RedisClient(queue_url, CALL_SECONDS, QueueUnavailableError), 1)
    (head_record,), _ = registry.heads.ready(head)
    (source, target), _ = registry.spaces.ready(encoder, head_record.space)
    assert source.encoder is not None  # noqa: S101
    encoders = EncoderCache("cpu", [Path(root) for root in roots.split(":")], offline=True)
    loaded = encoders.get(source.encoder)
    loaded.wait_until_compiled()
    encoder_model = loaded.encoder
    # A new one, so that it uses every batch size as given.
    batcher = Batcher(encoder_model)
    to_device = encoders.to_device
    pair_map = Translator(registry, inverses, 1 << 30, to_device).pair_map(
        source, target, DEFAULT_BRIDGE
    )
    classifier = ClassifierCache(registry, place=to_device).get(head_record)
    arrays, _ = unpack(Path(items).read_bytes())
    inputs = unpack_items(arrays, source.encoder.modality)

    def classify(batch: list[Item], size: int) -> None:
        rows = batcher.embed(encoder_model.prepare(batch), size)
        classifier.scores(pair_map.apply(to_device(rows)).rows)

    def classify_one(seconds: float) -> float:
        durations: list[float] = []
        while sum(durations) < seconds:
            start = time.perf_counter()
            classify(inputs[:1], 1)
            durations.append(time.perf_counter() - start)
        return statistics.median(durations) * 1000

    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        size, seconds = line.split()
        if size == "one":
            print(classify_one(float(seconds)), flush=True)  # noqa: T201
            continue
        done, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < float(seconds):
            # Several batches together, so that inputs of similar size can share one.
            count = SORTED_BATCHES * int(size)
            classify([inputs[(done + i) % len(inputs)] for i in range(count)], int(size))
            done += count
        print(done / elapsed, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
