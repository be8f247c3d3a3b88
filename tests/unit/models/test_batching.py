"""Batches of an encoder: bounded by memory, padding and time."""

from collections.abc import Callable, Sequence

import pytest
import torch

from stitchwork.errors import InputTooLargeError
from stitchwork.models.batching import MAX_BATCH_SECONDS, Batcher
from stitchwork.models.encoder import PreparedInputs
from stitchwork.resources import Item, Modality
from stitchwork.telemetry import Metrics
from tests.support.metric_samples import sample_value

EXCESSIVE_BYTES = 1 << 60
"""More memory than any machine has: the allocator fails."""


class LimitedEncoder:
    """An encoder that runs out of memory on large batches and on negative inputs."""

    dim = 1
    modality: Modality = "text"
    nbytes = 0
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.batch_sizes: list[int] = []

    def prepare(
        self,
        items: Sequence[Item],
        *,
        truncate: bool | None = None,
        input_type: str | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> PreparedInputs:
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
    seconds = 0.0

    class CacheLimitedEncoder(LimitedEncoder):
        def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            # Each batch has a fixed cost, and each input after the fourth costs ten times more.
            nonlocal seconds
            seconds += 0.004 + 0.002 * len(inputs) + 0.02 * max(0, len(inputs) - 4)
            return super().forward(inputs)

    encoder = CacheLimitedEncoder(max_rows=100)
    batcher = Batcher(encoder, clock=lambda: seconds)
    batcher.max_elements = batcher.tune(rows(1))
    encoder.batch_sizes.clear()
    batcher.embed(rows(*range(10)), 64)
    assert encoder.batch_sizes == [4, 4, 2]


def test_tuning_is_not_stopped_by_one_size_that_was_disturbed() -> None:
    seconds = 0.0

    class DisturbedEncoder(LimitedEncoder):
        def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            # Another process takes the core while batches of two are measured.
            nonlocal seconds
            seconds += 0.004 + 0.0001 * len(inputs) + (0.1 if len(inputs) == 2 else 0.0)
            return super().forward(inputs)

    batcher = Batcher(DisturbedEncoder(max_rows=100), clock=lambda: seconds)
    assert batcher.tune(rows(1)) == 32


def test_a_batch_of_a_slow_encoder_is_limited_by_its_duration() -> None:
    seconds = 0.0

    class SlowEncoder(LimitedEncoder):
        def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            nonlocal seconds
            seconds += 0.4 * MAX_BATCH_SECONDS * len(inputs)
            return super().forward(inputs)

    encoder = SlowEncoder(max_rows=100)
    batcher = Batcher(encoder, clock=lambda: seconds)
    batcher.embed(rows(1), 1)
    batcher.embed(rows(*range(6)), 6)
    assert encoder.batch_sizes == [1, 2, 2, 2]


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


def test_next_batch_is_submitted_while_the_device_computes_one() -> None:
    events = list[str]()

    class AsynchronousEncoder(LimitedEncoder):
        def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            events.append(f"submit {len(self.batch_sizes)}")
            return super().forward(inputs)

    def record(device: torch.device) -> Callable[[], None]:
        number = len(encoder.batch_sizes) - 1
        return lambda: events.append(f"wait {number}")

    encoder = AsynchronousEncoder(max_rows=2)
    batcher = Batcher(encoder, record=record)
    embedded = batcher.embed(rows(*range(6)), 2, lambda: events.append("progress"))
    torch.testing.assert_close(embedded, torch.arange(6.0)[:, None])
    assert events == [
        *("submit 0", "submit 1", "wait 0", "progress"),
        *("submit 2", "wait 1", "progress", "wait 2", "progress"),
    ]


def test_time_of_a_batch_leaves_out_that_of_the_batch_before() -> None:
    """Two batches that a device computes one after another, a second each."""
    now = 0.0
    encoder = LimitedEncoder(max_rows=100)

    def record(device: torch.device) -> Callable[[], None]:
        def wait() -> None:
            nonlocal now
            now += 0.3 * MAX_BATCH_SECONDS

        return wait

    batcher = Batcher(encoder, clock=lambda: now, record=record)
    batcher.embed(rows(*range(6)), 1)
    encoder.batch_sizes.clear()
    # A batch of three takes .9 of the longest time; of four it would take longer.
    batcher.embed(rows(*range(3)), 8)
    assert encoder.batch_sizes == [3]
