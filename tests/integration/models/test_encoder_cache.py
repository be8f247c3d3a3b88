"""What a worker keeps loaded, and batches that its device can bear."""

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

TOO_MUCH = 1 << 60
"""Bytes that no machine has: the allocator refuses them for real."""


class Hungry:
    """An encoder that asks for memory by what it is given: large batches, negative numbers."""

    dim = 1
    modality: Modality = "text"
    nbytes = 0
    device = torch.device("cpu")

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: list[int] = []

    def prepare(self, items: Sequence[Item], *, truncate: bool | None = None) -> PreparedInputs:
        raise NotImplementedError

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        if len(inputs) > self.most or any(float(row[0]) < 0 for row in inputs):
            torch.empty(TOO_MUCH)
        self.seen.append(len(inputs))
        return torch.stack([row[:1] for row in inputs])


def rows(*values: float) -> PreparedInputs:
    return PreparedInputs([torch.tensor([value]) for value in values])


def test_a_batch_that_runs_out_of_memory_is_split_and_the_size_remembered() -> None:
    encoder = Hungry(most=3)
    metrics = Metrics()
    batcher = Batcher(encoder, metrics)
    wanted = torch.arange(20.0)[:, None]
    torch.testing.assert_close(batcher.embed(rows(*range(20)), 16), wanted)
    assert sample_value(metrics, "batch_splits_total") == 3
    assert max(encoder.seen) == 2
    torch.testing.assert_close(batcher.embed(rows(*range(20)), 16), wanted)
    assert sample_value(metrics, "batch_splits_total") == 3, "what did not fit is not tried again"


def test_an_input_that_does_not_fit_even_alone_is_named() -> None:
    with pytest.raises(InputTooLargeError, match="does not fit the memory") as caught:
        Batcher(Hungry(most=8)).embed(rows(1, 2, -1, 4), 4)
    assert (caught.value.pointer, caught.value.code) == ("/items/2", "out-of-memory")


def test_the_batch_size_that_costs_least_is_found() -> None:
    class Crowded(Hungry):
        def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            # Each batch costs a little, and each input beyond the fourth ten times the others.
            threading.Event().wait(0.004 + 0.002 * len(inputs) + 0.02 * max(0, len(inputs) - 4))
            return super().forward(inputs)

    encoder = Crowded(most=100)
    batcher = Batcher(encoder)
    batcher.most = batcher.tune(rows(1))
    encoder.seen.clear()
    batcher.embed(rows(*range(10)), 64)
    assert encoder.seen == [4, 4, 2]


def test_a_batch_is_bounded_by_what_its_inputs_are_padded_to() -> None:
    encoder = Hungry(most=100)
    batcher = Batcher(encoder)
    batcher.most = 12
    lengths = [5, 1, 2, 1, 30, 3, 2, 6]
    got = batcher.embed(PreparedInputs([torch.full((n,), float(n)) for n in lengths]), 4)
    torch.testing.assert_close(got[:, 0], torch.tensor([float(n) for n in lengths]))
    # By rising length: 1 1 2 2 | 3 5 | 6 | 30, at most four inputs and twelve tokens each.
    assert encoder.seen == [4, 2, 1, 1]


def test_other_errors_of_a_model_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(Hungry):
        def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Batcher(Broken(1)).embed(rows(1), 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_efficientnet_lite("tf_efficientnet_lite0", tmp_path_factory.mktemp("lite"))


def test_those_used_last_stay_as_far_as_memory_goes(weights: Path) -> None:
    specs = [
        ImageEncoder(model="tf_efficientnet_lite0", weights=str(weights), input_size=size)
        for size in (32, 64, 96)
    ]
    keys = [encoder_key(spec) for spec in specs]
    roots = [weights.parent]
    size = EncoderCache("cpu", roots, offline=True).get(specs[0]).encoder.nbytes
    catalog = EncoderCache("cpu", roots, offline=True, memory_bytes=int(2.5 * size))
    for i in (0, 1, 0, 2):
        catalog.get(specs[i])
    assert set(catalog.loaded()) == {keys[0], keys[2]}
    assert catalog.nbytes() == 2 * size
    assert catalog.patience(keys[0]) == 0
    assert catalog.patience(keys[1]) >= MIN_PATIENCE_SECONDS, "it would push out another"
    text = TextEncoder(model=str(minilm_folder()))
    catalog = EncoderCache("cpu", [minilm_folder()], offline=True, memory_bytes=1)
    assert catalog.get(text) is catalog.get(text), "one that is larger than the limit still serves"


def test_what_cannot_be_loaded_is_not_tried_again_at_once(tmp_path: Path) -> None:
    catalog = EncoderCache("cpu", [tmp_path], offline=True)
    spec = TextEncoder(model=str(tmp_path))
    with pytest.raises(JobFailedError) as first:
        catalog.get(spec)
    with pytest.raises(JobFailedError) as second:
        catalog.get(spec)
    assert first.value is second.value


def test_devices_and_what_they_hold() -> None:
    assert resolve_device("cpu", 3) == torch.device("cpu")
    assert resolve_device("cuda:1", 3) == torch.device("cuda", 1)
    assert device_memory_bytes(torch.device("cpu")) > 1 << 30


@pytest.mark.drills
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_returns_after_two_hundred_loads(weights: Path) -> None:
    catalog = EncoderCache("cpu", [weights.parent], offline=True, memory_bytes=1)
    specs = [
        ImageEncoder(model="tf_efficientnet_lite0", weights=str(weights), input_size=size)
        for size in (32, 64)
    ]
    seen = []
    for cycle in range(200):
        catalog.get(specs[cycle % 2])
        assert len(catalog.loaded()) == 1
        if cycle in (20, 199):
            seen.append(resident())
    assert seen[1] - seen[0] < 0.1 * seen[0], seen
