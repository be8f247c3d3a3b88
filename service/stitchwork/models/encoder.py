"""The protocol between workers and models: inputs are prepared on the CPU, embedded on a device."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Protocol, Self

import numpy as np
import torch

from stitchwork.resources import Item, Modality

MAX_PIXELS: Final = 64_000_000
"""Default limit of the pixels of an image."""
MAX_TOKENS: Final = 8_192
"""Default limit of the tokens of a text, for models that accept more."""
SAMPLE_TEXT: Final = "The train to the coast was late again, and nobody could say why."
"""A text for warming up text encoders."""
SAMPLE_IMAGE: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ff"
    "ff3f0005fe02fe0def46b80000000049454e44ae426082"
)
"""A PNG file of one white pixel, for warming up image encoders."""


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """Preprocessed inputs of a model, not yet joined into batches.

    Attributes:
        inputs: One tensor for each item: token ids (t,) or pixels (3, h, w).
        truncated: Indices of the items that were truncated.
        prompt_name: Name of the prompt that an input type selected.
    """

    inputs: list[torch.Tensor]
    truncated: tuple[int, ...] = ()
    prompt_name: str | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens, special tokens included; images have none."""
        return sum(tensor.numel() for tensor in self.inputs if tensor.ndim == 1)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> "PreparedInputs":
        """The inputs of several jobs, in order."""
        return PreparedInputs([tensor for part in parts for tensor in part.inputs])

    def split(self, sizes: Iterable[int]) -> "list[PreparedInputs]":
        """The inputs of several jobs of so many items each, in order."""
        parts, start = list[PreparedInputs](), 0
        for size in sizes:
            stop = start + size
            truncated = tuple(i - start for i in self.truncated if start <= i < stop)
            parts.append(PreparedInputs(self.inputs[start:stop], truncated, self.prompt_name))
            start = stop
        return parts


def split_rows(rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Each row of integers as a tensor; all are parts of one, which takes less time to make."""
    sizes = [len(row) for row in rows]
    values = np.fromiter(chain.from_iterable(rows), np.int64, sum(sizes))
    return list(torch.split(torch.from_numpy(values), sizes))


class Encoder(Protocol):
    """A frozen model that embeds one modality."""

    dim: int
    modality: Modality
    nbytes: int
    device: torch.device
    dtype: torch.dtype

    def prepare(
        self,
        items: Sequence[Item],
        *,
        truncate: bool | None = None,
        input_type: str | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> PreparedInputs:
        """Tokenise texts, or decode and transform images, on the CPU.

        Args:
            items: Texts, or image files.
            truncate: Whether texts that are too long are truncated; None leaves it to the spec.
            input_type: Selects a prompt of the model; None takes the prompt of the spec.
            progress: Called after each image and each long text, and after every few short texts.

        Raises:
            InvalidInputError: If an item cannot be embedded; the pointer `/items/{i}` names it.
                Also if no prompt fits the input type.
        """

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embeddings (n, dim) of prepared inputs as one batch, on the encoder's device."""


def resolve_device(name: str, worker_index: int = 0) -> torch.device:
    """The device of a name; `auto` is CUDA if available, else Apple's MPS, else the CPU.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        worker_index: Index of the worker on its machine; `cuda` assigns GPUs to workers in turn
            (untested).
    """
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count() > 1:
        name = f"cuda:{worker_index % torch.cuda.device_count()}"
    return torch.device(name)


@contextmanager
def inference_mode(device: torch.device, dtype: torch.dtype) -> Generator[None, None, None]:
    """A context without gradients, with automatic half precision if the data type is one."""
    autocast: AbstractContextManager[Any] = (
        nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
    )
    with torch.inference_mode(), autocast:
        yield


def parameter_bytes(model: torch.nn.Module) -> int:
    """Size of a model's parameters and buffers in bytes."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
