"""A model's pass on a GPU, recorded as CUDA graphs and replayed.

A GPU is done with a small batch before the kernels of its pass are launched one by one; a recording
is launched as one. It holds for one size, so batches are padded to the next of a few. Written
without a GPU at hand: what is padded is tested, what records is not, and is off unless asked for.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from stitchwork.models.openvino_backend import ForwardPass, max_relative_difference

log = logging.getLogger(__name__)

ROWS: Final = (1, 2, 4, 8)
"""Rows that recordings have; what has more keeps a GPU busy for longer than its launch takes."""
TOKENS: Final = 32
"""Lengths of texts are padded to a multiple of it."""
WARM_UPS: Final = 3
MAX_DIFFERENCE: Final = 1e-2
"""Most that a replayed row may differ from the pass itself, relative to its length, in bfloat16."""

Capture = Callable[[ForwardPass, Sequence[torch.Tensor]], ForwardPass]


class CudaGraphPass:
    """A pass that is recorded for each size when it first comes; for one thread at a time.

    Args:
        module: The pass itself, which takes larger batches, and sizes that cannot be recorded.
        name: What the log calls it.
        longest: Tokens that the model takes; it has no place for a padding beyond them.
        record: Makes a recording of a pass, of the size of these inputs.
    """

    def __init__(
        self, module: ForwardPass, name: str, longest: int = 0, record: Capture | None = None
    ) -> None:
        self._module = module
        self._longest = longest
        self._name = name
        self._record = record or _Recorder()
        self._recordings: dict[tuple[torch.Size, ...], ForwardPass] = {}

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Inputs of n rows to (n, d)."""
        count = len(inputs[0])
        if count > ROWS[-1]:
            return self._module(*inputs)
        padded = [pad(part, self._longest) for part in inputs]
        size = tuple(part.shape for part in padded)
        if size not in self._recordings:
            self._recordings[size] = self._made(padded)
        return self._recordings[size](*padded)[:count]

    def _made(self, inputs: Sequence[torch.Tensor]) -> ForwardPass:
        told: dict[str, Any] = {"model": self._name, "size": [list(part.shape) for part in inputs]}
        try:
            found = self._record(self._module, inputs)
            worst = max_relative_difference(self._module(*inputs), found(*inputs))
        except RuntimeError as error:
            log.warning("not recorded", extra={**told, "reason": type(error).__name__})
            return self._module
        if not worst <= MAX_DIFFERENCE:
            log.warning("recorded wrongly", extra={**told, "difference": worst})
            return self._module
        log.info("recorded", extra=told)
        return found


def pad(part: torch.Tensor, longest: int) -> torch.Tensor:
    """Inputs of n rows, of tokens where they have two dimensions, padded to a size of recordings.

    Rows are filled up with the first one, so that none is without a token; tokens with zeros,
    which a mask takes for padding, and which are ids that any model has.
    """
    count = next(rows for rows in ROWS if rows >= len(part))
    if part.ndim == 2:
        length = part.shape[1]
        more = min(-length % TOKENS, max(0, longest - length))
        part = torch.nn.functional.pad(part, (0, more))
    if count == len(part):
        return part
    return torch.cat([part, part[:1].expand(count - len(part), *part.shape[1:])])


class _Recorder:
    """Records on the device of the inputs; all recordings of a model share their memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, module: ForwardPass, inputs: Sequence[torch.Tensor]) -> ForwardPass:
        with torch.cuda.device(inputs[0].device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            held = [part.clone() for part in inputs]
            stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            # Casts of weights that autocast keeps would lie in the memory of the recording.
            with torch.autocast(
                "cuda",
                torch.get_autocast_dtype("cuda"),
                enabled=torch.is_autocast_enabled("cuda"),
                cache_enabled=False,
            ):
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for _ in range(WARM_UPS):
                        module(*held)
                torch.cuda.current_stream().wait_stream(stream)
                graph = torch.cuda.CUDAGraph()
                # Other threads of the worker may use the device meanwhile.
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
                ):
                    found = module(*held)

        def replay(*given: torch.Tensor) -> torch.Tensor:
            for mine, theirs in zip(held, given, strict=True):
                mine.copy_(theirs)
            graph.replay()
            # The next replay of any size writes over it.
            return found.clone()

        return replay
