"""Splits inputs into batches that fit the device and take a bounded time.

The cost of a batch depends on its tokens or pixels, padding included, rather than on the number of
its inputs: many short texts can cost as much as a few long ones.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch

from stitchwork.errors import ErrorCode, InputTooLargeError
from stitchwork.models.encoder import Encoder, PreparedInputs, inference_mode
from stitchwork.models.memory import is_out_of_memory, record_work, release_memory
from stitchwork.telemetry import Metrics

log = logging.getLogger(__name__)

MAX_BATCH_SECONDS: Final = 2.0
"""Longer batches delay the jobs behind them, and could be mistaken for a hang."""
TRIAL_SIZES: Final = (1, 2, 4, 8, 16, 32)
TRIAL_REPEATS: Final = 4
"""The first pass of a size allocates memory that the later ones reuse."""
COST_TOLERANCE: Final = 1.05
"""Costs within this factor of the lowest count as equal."""
MAX_SUBMITTED: Final = 2
"""Batches of a GPU at a time: while it computes one, the next is joined, copied and submitted."""

RecordWork = Callable[[torch.device], Callable[[], None] | None]


class _SubmittedBatch(NamedTuple):
    """A batch that a device computes.

    Attributes:
        wait: Waits until it is computed.
        began: When it was submitted.
        elements: Its tokens, or values of pixels, padding included.
    """

    wait: Callable[[], None] | None
    began: float
    elements: int


class Batcher:
    """Runs one encoder over inputs, in batches of bounded size and duration.

    Args:
        encoder: The encoder.
        metrics: Records the sizes, padding and splits of batches.
        clock: Returns the time in seconds.
        record: Returns what waits for the work of a device, as `record_work` does.

    Attributes:
        max_elements: Tokens, or values of pixels, that a batch may have, padding included.
    """

    def __init__(
        self,
        encoder: Encoder,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.perf_counter,
        record: RecordWork = record_work,
    ) -> None:
        self._encoder = encoder
        self._clock = clock
        self._record_work = record
        self._computed_at = float("-inf")
        self.max_elements = 1 << 30
        self._seconds_per_element = 0.0
        self._metrics = metrics or Metrics()

    def tune(self, sample: PreparedInputs) -> int:
        """Measure the batch size with the lowest cost per input; larger ones may overflow caches.

        Args:
            sample: One input, which is repeated to form batches.

        Returns:
            The tokens, or values of pixels, of a batch of that size.
        """
        elements = sample.inputs[0].numel()
        costs: dict[int, float] = {}
        for size in TRIAL_SIZES:
            costs[size] = min(self._cost(sample, size) for _ in range(TRIAL_REPEATS))
            lowest = min(costs.values())
            # Larger sizes would cost as much, and take longer to measure. One size alone may have
            # been slow because other processes ran meanwhile.
            last = list(costs.values())[-2:]
            is_worse = len(last) == 2 and min(last) > COST_TOLERANCE * lowest
            if is_worse or costs[size] * size > MAX_BATCH_SECONDS / 2:
                break
        self._seconds_per_element = lowest / elements
        return elements * max(
            size for size, cost in costs.items() if cost <= COST_TOLERANCE * lowest
        )

    def embed(
        self, prepared: PreparedInputs, max_items: int, progress: Callable[[], None] = lambda: None
    ) -> torch.Tensor:
        """Embed inputs, sorted by size so that similar sizes share a batch.

        Args:
            prepared: n inputs.
            max_items: Maximum number of inputs in one batch.
            progress: Called after each batch is computed.

        Returns:
            Embeddings (n, dim) float32 on the encoder's device, in the order of the inputs.

        Raises:
            InputTooLargeError: If one input alone does not fit the device; the pointer `/items/{i}`
                names it.
        """
        inputs = prepared.inputs
        order = sorted(range(len(inputs)), key=lambda i: inputs[i].numel())
        parts, start = [], 0
        submitted = deque[_SubmittedBatch]()
        with inference_mode(self._encoder.device, self._encoder.dtype):
            while start < len(order):
                indices = self._limit(inputs, order[start : start + max_items])
                began = self._clock()
                part = self._forward(inputs, indices)
                parts.append(part.float())
                self._record([inputs[i].numel() for i in order[start : start + len(part)]])
                elements = _padded_elements(inputs, indices[: len(part)])
                wait = self._record_work(self._encoder.device)
                submitted.append(_SubmittedBatch(wait, began, elements))
                start += len(part)
                if wait is None or len(submitted) == MAX_SUBMITTED:
                    self._complete(submitted.popleft(), progress)
            while submitted:
                self._complete(submitted.popleft(), progress)
        rows = torch.cat(parts)
        if len(order) == 1:
            return rows
        inverse = torch.empty(len(order), dtype=torch.int64)
        inverse[torch.as_tensor(order)] = torch.arange(len(order))
        return rows[inverse.to(rows.device)]

    def _complete(self, batch: _SubmittedBatch, progress: Callable[[], None]) -> None:
        """Wait until a batch is computed, and record its time without that of the one before."""
        if batch.wait is not None:
            batch.wait()
        now = self._clock()
        self._record_seconds((now - max(batch.began, self._computed_at)) / batch.elements)
        self._computed_at = now
        progress()

    def _record(self, sizes: Sequence[int]) -> None:
        """Record a batch of inputs of these sizes, each padded to the largest."""
        self._metrics.batch_inputs.observe(len(sizes))
        self._metrics.batch_fill_ratio.observe(sum(sizes) / max(1, max(sizes) * len(sizes)))

    def _record_seconds(self, seconds: float) -> None:
        """Update the moving average of the seconds per element."""
        average = self._seconds_per_element
        self._seconds_per_element = (average + seconds) / 2 if average else seconds

    def _cost(self, sample: PreparedInputs, size: int) -> float:
        """Seconds per input in a batch of this size."""
        began = self._clock()
        with inference_mode(self._encoder.device, self._encoder.dtype):
            self._encoder.forward(sample.inputs * size)
        return (self._clock() - began) / size

    def _limit(self, inputs: Sequence[torch.Tensor], indices: Sequence[int]) -> Sequence[int]:
        """The longest prefix of these indices, sorted by size, that a batch may hold."""
        in_time = float(self.max_elements)
        if self._seconds_per_element:
            in_time = MAX_BATCH_SECONDS / self._seconds_per_element
        limit = min(self.max_elements, in_time)
        count = 1
        while count < len(indices) and (count + 1) * inputs[indices[count]].numel() <= limit:
            count += 1
        return indices[:count]

    def _forward(self, inputs: Sequence[torch.Tensor], indices: Sequence[int]) -> torch.Tensor:
        """Embeddings of the longest prefix of these indices that fits the device."""
        while True:
            try:
                return self._encoder.forward([inputs[i] for i in indices])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, since the traceback of the error keeps the tensors alive.
            release_memory(self._encoder.device)
            if len(indices) == 1:
                raise InputTooLargeError(
                    "the input does not fit the memory of the worker's device",
                    pointer=f"/items/{indices[0]}",
                    code=ErrorCode.OUT_OF_MEMORY,
                )
            self._metrics.batch_splits.inc()
            indices = indices[: len(indices) // 2]
            self.max_elements = _padded_elements(inputs, indices)
            log.warning(
                "batch size reduced",
                extra={"reason": "out of memory", "max_elements": self.max_elements},
            )


def _padded_elements(inputs: Sequence[torch.Tensor], indices: Sequence[int]) -> int:
    """Tokens, or values of pixels, of a batch of these inputs, sorted by size."""
    return len(indices) * inputs[indices[-1]].numel()
