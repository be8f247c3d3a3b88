"""A model's forward pass on a GPU, captured as CUDA graphs and replayed.

A GPU computes a small batch faster than the kernels of its pass are launched one by one; a graph is
launched as a whole. A graph has one size, so batches are padded to one of a few sizes. This was
written without a GPU: padding is tested, capturing is not, and graphs are off by default.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from stitchwork.models.openvino_backend import ForwardPass, max_relative_difference

log = logging.getLogger(__name__)

BATCH_SIZES: Final = (1, 2, 4, 8)
"""Rows of the captured graphs; larger batches compute for longer than their launch takes."""
TOKEN_MULTIPLE: Final = 32
"""Texts are padded to a multiple of this many tokens."""
WARMUP_PASSES: Final = 3
MAX_DIFFERENCE: Final = 1e-2
"""Largest difference of a replayed row from the pass, relative to its norm, in bfloat16."""

Capture = Callable[[ForwardPass, Sequence[torch.Tensor]], ForwardPass]


class CudaGraphPass:
    """A forward pass that is captured once for each size; not thread-safe.

    Args:
        module: The pass itself, used for larger batches and for sizes that cannot be captured.
        name: Name of the model in the log.
        max_tokens: Maximum length of a text; no text is padded to more.
        capture: Captures a pass at the size of sample inputs.
    """

    def __init__(
        self, module: ForwardPass, name: str, max_tokens: int = 0, capture: Capture | None = None
    ) -> None:
        self._module = module
        self._max_tokens = max_tokens
        self._name = name
        self._capture = capture or _GraphCapture()
        self._graphs: dict[tuple[torch.Size, ...], ForwardPass] = {}

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Maps inputs of n rows to (n, d)."""
        count = len(inputs[0])
        if count > BATCH_SIZES[-1]:
            return self._module(*inputs)
        padded = [pad(tensor, self._max_tokens) for tensor in inputs]
        size = tuple(tensor.shape for tensor in padded)
        if size not in self._graphs:
            self._graphs[size] = self._checked_capture(padded)
        return self._graphs[size](*padded)[:count]

    def _checked_capture(self, inputs: Sequence[torch.Tensor]) -> ForwardPass:
        """A captured pass, or the module itself if capturing fails or changes the results."""
        extra: dict[str, Any] = {"model": self._name, "size": [list(x.shape) for x in inputs]}
        try:
            graph = self._capture(self._module, inputs)
            difference = max_relative_difference(self._module(*inputs), graph(*inputs))
        except RuntimeError as error:
            extra["reason"] = type(error).__name__
            log.warning("CUDA graph capture failed", extra=extra)
            return self._module
        if not difference <= MAX_DIFFERENCE:
            extra["reason"] = f"results differ by {difference:.2g}"
            log.warning("CUDA graph capture failed", extra=extra)
            return self._module
        log.info("CUDA graph captured", extra=extra)
        return graph


def pad(tensor: torch.Tensor, max_tokens: int) -> torch.Tensor:
    """Pad inputs of n rows, and of t tokens if they have two dimensions, to a captured size.

    Rows are filled up with copies of the first, so that no row is without a token. Tokens are
    filled up with zeros: a mask takes them for padding, and every model has the id 0.
    """
    count = next(rows for rows in BATCH_SIZES if rows >= len(tensor))
    if tensor.ndim == 2:
        length = tensor.shape[1]
        padding = min(-length % TOKEN_MULTIPLE, max(0, max_tokens - length))
        tensor = torch.nn.functional.pad(tensor, (0, padding))
    if count == len(tensor):
        return tensor
    return torch.cat([tensor, tensor[:1].expand(count - len(tensor), *tensor.shape[1:])])


class _GraphCapture:
    """Captures graphs on the device of the inputs; all graphs of a model share one memory pool."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, module: ForwardPass, inputs: Sequence[torch.Tensor]) -> ForwardPass:
        with torch.cuda.device(inputs[0].device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            static_inputs = [tensor.clone() for tensor in inputs]
            stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            # Weights that autocast casts and caches would lie in the memory of the graph.
            with torch.autocast(
                "cuda",
                torch.get_autocast_dtype("cuda"),
                enabled=torch.is_autocast_enabled("cuda"),
                cache_enabled=False,
            ):
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for _ in range(WARMUP_PASSES):
                        module(*static_inputs)
                torch.cuda.current_stream().wait_stream(stream)
                graph = torch.cuda.CUDAGraph()
                # Other threads of the worker may use the device during the capture.
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
                ):
                    static_output = module(*static_inputs)

        def replay(*inputs: torch.Tensor) -> torch.Tensor:
            for static_input, tensor in zip(static_inputs, inputs, strict=True):
                static_input.copy_(tensor)
            graph.replay()
            # The next replay of any graph overwrites the output.
            return static_output.clone()

        return replay
