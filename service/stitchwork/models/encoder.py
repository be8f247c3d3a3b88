"""The thin waist between workers and models: prepare on the CPU, embed on the device."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import torch

from stitchwork.resources import Item, Modality

MAX_PIXELS: Final = 64_000_000
"""Of an image, unless whoever loads the encoder says otherwise."""
MAX_TOKENS: Final = 8_192
"""Of a text, whatever its model takes, unless whoever loads the encoder says otherwise."""
SAMPLE_TEXT: Final = "The train to the coast was late again, and nobody could say why."
"""What text encoders are tried with."""


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """Inputs that are ready for the model, still apart from each other.

    Attributes:
        inputs: One tensor for each item: token ids (t,), or pixels (3, h, w).
        truncated: Which items were cut.
    """

    inputs: list[torch.Tensor]
    truncated: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens the model gets, those that frame a text included; images have none."""
        return sum(len(tensor) for tensor in self.inputs if tensor.ndim == 1)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> "PreparedInputs":
        """The inputs of several jobs as those of one."""
        return PreparedInputs([tensor for part in parts for tensor in part.inputs])


class Encoder(Protocol):
    """A frozen model that embeds one modality."""

    dim: int
    modality: Modality
    nbytes: int
    device: torch.device

    def prepare(self, items: Sequence[Item], *, truncate: bool | None = None) -> PreparedInputs:
        """Tokenise texts, or decode and transform images, on the CPU.

        Raises:
            InvalidInputError: If an item cannot be embedded; the pointer `/items/{i}` says which.
        """

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embeddings (n, dim) of prepared inputs as one batch, on the encoder's device."""


def resolve_device(name: str, number: int = 0) -> torch.device:
    """The device of this name; `auto` takes CUDA, else Apple's MPS, else the CPU.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        number: Which of a machine's workers asks; they take its GPUs in turn (untested here).
    """
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count() > 1:
        name = f"cuda:{number % torch.cuda.device_count()}"
    return torch.device(name)


@contextmanager
def inference_mode(device: torch.device) -> Generator[None, None, None]:
    """No gradients and, on CUDA (untested here), half precision where it is safe."""
    half = (
        torch.bfloat16
        if device.type == "cuda" and torch.cuda.is_bf16_supported()
        else torch.float16
    )
    cast: AbstractContextManager[Any] = (
        torch.autocast("cuda", half) if device.type == "cuda" else nullcontext()
    )
    with torch.inference_mode(), cast:
        yield


def parameter_bytes(model: torch.nn.Module) -> int:
    """Memory that a model's parameters and buffers hold."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
