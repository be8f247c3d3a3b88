"""The cache of loaded encoders, and batches that fit the device."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from stitchwork.errors import InputTooLargeError, JobFailedError
from stitchwork.models.batching import Batcher
from stitchwork.models.encoder import PreparedInputs, resolve_device
from stitchwork.models.encoder_cache import MIN_PATIENCE_SECONDS, EncoderCache
from stitchwork.models.memory import device_memory_bytes
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.resources import ImageEncoder, Item, Modality, TextEncoder, encoder_key
from stitchwork.telemetry import Metrics
from tests.support.memory import resident
from tests.support.metric_samples import sample_value

pytestmark = pytest.mark.models

EXCESSIVE_BYTES = 1 << 60
"""More memory than any machine has: the allocator fails."""


class LimitedEncoder:
    """An encoder that runs out of memory on large batches and on negative inputs."""

    dim = 1
    modality: Modality = "text"
    nbytes = 0
    device = torch.device("cpu")

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.batch_sizes: list[int] = []

    def prepare(self, items: Sequence[Item], *, truncate: bool | None = None) -> PreparedInputs:
        raise NotImplementedError

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        if len(inputs) > self.max_rows or any(float(row[0]) < 0 for row in inputs):
            torch.empty(EXCESSIVE_BYTES)
        self.batch_sizes.append(len(inputs))
        return torch.stack([row[:1] for row in inputs])


def rows(*values: float) -> PreparedInputs:
    return PreparedInputs([torch.tensor([value]) for value in values])


def test_a_batch_that_runs_out_of_memory_is_split_and_later_ones_are_smaller() -> None:
    encoder = LimitedEncoder(max_rows=3)
    metrics = Metrics()
    batcher = Batcher(encoder, metrics)
    expected = torch.arange(20.0)[:, None]
    torch.testing.assert_close(batcher.embed(rows(*range(20)), 16), expected)
    assert sample_value(metrics, "batch_splits_total") == 3
    assert max(encoder.batch_sizes) == 2
    torch.testing.assert_close(batcher.embed(rows(*range(20)), 16), expected)
    assert sample_value(metrics, "batch_splits_total") == 3, (
        "a size that did not fit is not tried again"
    )


def test_an_input_that_does_not_fit_alone_is_named_by_the_error() -> None:
    with pytest.raises(InputTooLargeError, match="does not fit the memory") as caught:
        Batcher(LimitedEncoder(max_rows=8)).embed(rows(1, 2, -1, 4), 4)
    assert (caught.value.pointer, caught.value.code) == ("/items/2", "out-of-memory")


def test_tuning_finds_the_cheapest_batch_size() -> None:
    class CacheLimitedEncoder(LimitedEncoder):
        def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            # Each batch has a fixed cost, and each input after the fourth costs ten times more.
            threading.Event().wait(0.004 + 0.002 * len(inputs) + 0.02 * max(0, len(inputs) - 4))
            return super().forward(inputs)

    encoder = CacheLimitedEncoder(max_rows=100)
    batcher = Batcher(encoder)
    batcher.max_elements = batcher.tune(rows(1))
    encoder.batch_sizes.clear()
    batcher.embed(rows(*range(10)), 64)
    assert encoder.batch_sizes == [4, 4, 2]


def test_a_batch_is_limited_by_its_padded_size() -> None:
    encoder = LimitedEncoder(max_rows=100)
    batcher = Batcher(encoder)
    batcher.max_elements = 12
    lengths = [5, 1, 2, 1, 30, 3, 2, 6]
    actual = batcher.embed(PreparedInputs([torch.full((n,), float(n)) for n in lengths]), 4)
    torch.testing.assert_close(actual[:, 0], torch.tensor([float(n) for n in lengths]))
    # In order of length: 1 1 2 2 | 3 5 | 6 | 30, at most four inputs and twelve tokens each.
    assert encoder.batch_sizes == [4, 2, 1, 1]


def test_other_errors_of_a_model_are_not_treated_as_out_of_memory() -> None:
    class FailingEncoder(LimitedEncoder):
        def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Batcher(FailingEncoder(1)).embed(rows(1), 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_efficientnet_lite("tf_efficientnet_lite0", tmp_path_factory.mktemp("lite"))


def test_the_least_recently_used_encoder_is_evicted(weights: Path) -> None:
    specs = [
        ImageEncoder(model="tf_efficientnet_lite0", weights=str(weights), input_size=size)
        for size in (32, 64, 96)
    ]
    keys = [encoder_key(spec) for spec in specs]
    roots = [weights.parent]
    size = EncoderCache("cpu", roots, offline=True).get(specs[0]).encoder.nbytes
    encoders = EncoderCache("cpu", roots, offline=True, memory_bytes=int(2.5 * size))
    for i in (0, 1, 0, 2):
        encoders.get(specs[i])
    assert set(encoders.loaded()) == {keys[0], keys[2]}
    assert encoders.nbytes() == 2 * size
    assert encoders.patience(keys[0]) == 0
    assert encoders.patience(keys[1]) >= MIN_PATIENCE_SECONDS, "another encoder would be evicted"
    text = TextEncoder(model=str(minilm_folder()))
    encoders = EncoderCache("cpu", [minilm_folder()], offline=True, memory_bytes=1)
    assert encoders.get(text) is encoders.get(text), (
        "an encoder larger than the limit is still loaded"
    )


def test_an_encoder_that_cannot_be_loaded_is_not_tried_again_at_once(tmp_path: Path) -> None:
    encoders = EncoderCache("cpu", [tmp_path], offline=True)
    spec = TextEncoder(model=str(tmp_path))
    with pytest.raises(JobFailedError) as first:
        encoders.get(spec)
    with pytest.raises(JobFailedError) as second:
        encoders.get(spec)
    assert first.value is second.value


def test_devices_are_resolved_and_have_memory() -> None:
    assert resolve_device("cpu", 3) == torch.device("cpu")
    assert resolve_device("cuda:1", 3) == torch.device("cuda", 1)
    assert device_memory_bytes(torch.device("cpu")) > 1 << 30


@pytest.mark.drills
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_returns_after_two_hundred_loads(weights: Path) -> None:
    encoders = EncoderCache("cpu", [weights.parent], offline=True, memory_bytes=1)
    specs = [
        ImageEncoder(model="tf_efficientnet_lite0", weights=str(weights), input_size=size)
        for size in (32, 64)
    ]
    resident_bytes = []
    for cycle in range(200):
        encoders.get(specs[cycle % 2])
        assert len(encoders.loaded()) == 1
        if cycle in (20, 199):
            resident_bytes.append(resident())
    assert resident_bytes[1] - resident_bytes[0] < 0.1 * resident_bytes[0], resident_bytes
