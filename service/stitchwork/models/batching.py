"""How many inputs a model gets at once: as many as fit its device and a moment of its time.

What a batch costs goes by its tokens or pixels, padding included, rather than by its inputs: many
short texts make one as large as a few long ones do.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import torch

from stitchwork.errors import ErrorCode, InputTooLargeError
from stitchwork.models.encoder import Encoder, PreparedInputs, inference_mode
from stitchwork.models.memory import is_out_of_memory, release_memory, synchronize
from stitchwork.telemetry import Metrics

log = logging.getLogger(__name__)

BATCH_SECONDS: Final = 2.0
"""A batch that takes longer holds up those behind it, and looks as if it hung."""
TRIED: Final = (1, 2, 4, 8, 16, 32)
TIMES: Final = 4
"""The first pass of a size fetches memory that later ones find."""
NEAR: Final = 1.05


class Batcher:
    """Runs one encoder over inputs, in batches that it can bear.

    Args:
        encoder: The encoder.
        metrics: Where sizes and padding of batches are seen, and those that had to be split.

    Attributes:
        most: Tokens, or numbers of pixels, that a batch may have once its inputs are padded.
    """

    def __init__(self, encoder: Encoder, metrics: Metrics | None = None) -> None:
        self._encoder = encoder
        self.most = 1 << 30
        self._seconds = 0.0
        self._metrics = metrics or Metrics()

    def tune(self, sample: PreparedInputs) -> int:
        """Find the batch size that costs a CPU least; a larger one may not fit its caches.

        Args:
            sample: One input, of which batches are made.

        Returns:
            The tokens, or numbers of pixels, of such a batch.
        """
        each = sample.inputs[0].numel()
        costs: dict[int, float] = {}
        for size in TRIED:
            costs[size] = min(self._cost(sample, size) for _ in range(TIMES))
            least = min(costs.values())
            # Those that are larger still will cost as much, and take longer to be tried.
            if costs[size] > NEAR * least or costs[size] * size > BATCH_SECONDS / 2:
                break
        self._seconds = least / each
        return each * max(size for size, cost in costs.items() if cost <= NEAR * least)

    def embed(
        self,
        prepared: PreparedInputs,
        items_per_batch: int,
        progress: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """Embeddings (n, dim) float32 on the encoder's device, in the order of the inputs.

        Args:
            prepared: n inputs; those of like size share a batch.
            items_per_batch: Inputs in one batch, at most.
            progress: Called after each batch.

        Raises:
            InputTooLargeError: If one input alone does not fit the device; the pointer `/items/{i}`
                says which.
        """
        inputs = prepared.inputs
        order = sorted(range(len(inputs)), key=lambda i: inputs[i].numel())
        rows, at = [], 0
        with inference_mode(self._encoder.device):
            while at < len(order):
                picked = self._fitting(inputs, order[at : at + items_per_batch])
                began = time.perf_counter()
                found = self._forward(inputs, picked)
                # What ran is known only once it is through; a device works behind our back.
                rows.append(found.float())
                self._note([inputs[i].numel() for i in order[at : at + len(found)]])
                synchronize(self._encoder.device)
                size = _padded(inputs, picked[: len(found)])
                spent = (time.perf_counter() - began) / size
                self._seconds = spent if not self._seconds else (self._seconds + spent) / 2
                at += len(found)
                progress()
        joined = torch.cat(rows)
        if len(order) == 1:
            return joined
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.as_tensor(order)] = torch.arange(len(order))
        return joined[back.to(joined.device)]

    def _note(self, sizes: Sequence[int]) -> None:
        """A batch of inputs of these sizes went through; each was padded to the largest."""
        self._metrics.batch_inputs.observe(len(sizes))
        self._metrics.batch_fill_ratio.observe(sum(sizes) / max(1, max(sizes) * len(sizes)))

    def _cost(self, sample: PreparedInputs, size: int) -> float:
        began = time.perf_counter()
        with inference_mode(self._encoder.device):
            self._encoder.forward(sample.inputs * size)
        return (time.perf_counter() - began) / size

    def _fitting(self, inputs: Sequence[torch.Tensor], picked: Sequence[int]) -> Sequence[int]:
        """As many of the picked inputs, by rising size from the first on, as a batch may have."""
        timely = BATCH_SECONDS / self._seconds if self._seconds else self.most
        most = min(self.most, timely)
        count = 1
        while count < len(picked) and (count + 1) * inputs[picked[count]].numel() <= most:
            count += 1
        return picked[:count]

    def _forward(self, inputs: Sequence[torch.Tensor], picked: Sequence[int]) -> torch.Tensor:
        """The rows of as many of the picked inputs, from the first on, as fit the device."""
        while True:
            try:
                return self._encoder.forward([inputs[i] for i in picked])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, where the error no longer holds on to what it could not fit.
            release_memory(self._encoder.device)
            if len(picked) == 1:
                raise InputTooLargeError(
                    "the input does not fit the memory of the worker's device",
                    pointer=f"/items/{picked[0]}",
                    code=ErrorCode.OUT_OF_MEMORY,
                )
            self._metrics.batch_splits.inc()
            picked = picked[: len(picked) // 2]
            self.most = _padded(inputs, picked)
            log.warning("out of memory; batches are smaller now", extra={"size": self.most})


def _padded(inputs: Sequence[torch.Tensor], picked: Sequence[int]) -> int:
    """Tokens, or numbers of pixels, of a batch of inputs in the order of their sizes."""
    return len(picked) * inputs[picked[-1]].numel()
