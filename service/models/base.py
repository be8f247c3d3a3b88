"""The thin waist between workers and models: prepare on the CPU, embed on the device."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch

from service.records import Item, Modality


@dataclass(frozen=True, slots=True)
class Prepared:
    """Inputs that are ready for the model, still apart from each other.

    Attributes:
        inputs: One tensor for each item: token ids (t,), or pixels (3, h, w).
        truncated: Which items were cut.
    """

    inputs: list[torch.Tensor]
    truncated: tuple[int, ...] = ()

    @classmethod
    def join(cls, parts: Sequence[Self]) -> "Prepared":
        """The inputs of several jobs as those of one."""
        return Prepared([tensor for part in parts for tensor in part.inputs])


class Encoder(Protocol):
    """A frozen model that embeds one modality."""

    dim: int
    modality: Modality
    nbytes: int

    def prepare(self, items: Sequence[Item], *, truncate: bool | None = None) -> Prepared:
        """Tokenise texts, or decode and transform images, on the CPU.

        Raises:
            InvalidInput: If an item cannot be embedded; the pointer `/items/{i}` says which.
        """

    def embed(self, prepared: Prepared, batch_items: int) -> torch.Tensor:
        """Embeddings (n, dim) float32 on the encoder's device, in the order of the inputs."""


def pick_device(name: str) -> torch.device:
    """The device of this name; `auto` takes CUDA, else Apple's MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@contextmanager
def inference(device: torch.device) -> Generator[None, None, None]:
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


def in_batches(
    inputs: list[torch.Tensor],
    order: Sequence[int],
    batch_items: int,
    forward: Callable[[list[torch.Tensor]], torch.Tensor],
) -> torch.Tensor:
    """Run a model over inputs in any order, and give the rows back in their own.

    Args:
        inputs: n inputs.
        order: The order in which they are batched, such as by length.
        batch_items: Inputs in one batch.
        forward: Embeds one batch, (b, dim).

    Returns:
        (n, dim) float32; row i belongs to input i.
    """
    rows = [
        forward([inputs[i] for i in order[at : at + batch_items]]).float()
        for at in range(0, len(order), batch_items)
    ]
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.as_tensor(order)] = torch.arange(len(order))
    found = torch.cat(rows)
    return found[back.to(found.device)]


def parameter_bytes(model: torch.nn.Module) -> int:
    """Memory that a model's parameters and buffers hold."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
