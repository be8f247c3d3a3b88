"""Small networks trained from nothing, so that encoders can differ in all but their data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from stitchwork.errors import InvalidInputError
from stitchwork.models.timm_encoder import decode

BATCH: Final = 64
LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 0.02
SHIFT: Final = 8
"""Training images move by up to one part in this many of their side."""


def train_image_encoder(
    model: str,
    images: Sequence[bytes],
    labels: NDArray[np.int64],
    path: Path,
    *,
    input_size: int,
    epochs: int,
    seed: int,
    test_data: tuple[Sequence[bytes], NDArray[np.int64]],
    progress: Callable[[], None] = lambda: None,
) -> float:
    """Train a timm model on labelled images, and write it as the catalog reads it.

    The model keeps the classifier that timm gives it, of which only the first logits are used; so
    its weights are those that timm expects.

    Args:
        model: Name of a small model in timm.
        images: n image files.
        labels: (n,) their classes, from 0.
        path: Where the safetensors file goes.
        input_size: Side in pixels.
        epochs: Passes over the images.
        seed: Of the first weights, the order and the shifts.
        test_data: Images and their classes that are not trained on.
        progress: Called after each pass.

    Returns:
        The accuracy of the model's own classifier on the images held out.

    Raises:
        InvalidInputError: If timm has no such model, the classifier is too small, or there are not
        as
            many labels as images, and enough for a batch.
    """
    if not timm.is_model(model):
        raise InvalidInputError(f"timm has no model {model}")
    if len(images) != len(labels) or len(labels) < BATCH:
        raise InvalidInputError(
            f"expected a label for each of at least {BATCH} images, got {len(labels)} labels and "
            f"{len(images)} images"
        )
    # Only here: what else draws random numbers in this process is left alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = timm.create_model(model, pretrained=False)
    classes = int(labels.max()) + 1
    if classes > net.num_classes:
        raise InvalidInputError(
            f"{model} tells at most {net.num_classes} classes apart, got {classes}"
        )
    config = resolve_data_config({"input_size": (3, input_size, input_size)}, model=net)
    transform = create_transform(**config, is_training=False)

    def pixels(files: Sequence[bytes]) -> torch.Tensor:
        return torch.stack([transform(decode(f, f"/items/{i}")) for i, f in enumerate(files)])

    seen, wanted = pixels(images), torch.as_tensor(labels)
    rng = torch.Generator().manual_seed(seed)
    steps = len(wanted) // BATCH
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * steps
    )
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(wanted), generator=rng)
        for at in range(0, steps * BATCH, BATCH):
            batch = order[at : at + BATCH]
            shown = _shifted(seen[batch], input_size // SHIFT, rng)
            loss = torch.nn.functional.cross_entropy(net(shown)[:, :classes], wanted[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        progress()
    net.eval()
    save_file({key: tensor.contiguous() for key, tensor in net.state_dict().items()}, path)
    files, truth = test_data
    right = 0
    with torch.inference_mode():
        for at in range(0, len(files), BATCH):
            found = net(pixels(files[at : at + BATCH]))[:, :classes].argmax(1)
            right += int((found.numpy() == truth[at : at + BATCH]).sum())
    return right / len(files)


def _shifted(images: torch.Tensor, most: int, rng: torch.Generator) -> torch.Tensor:
    down, right = torch.randint(-most, most + 1, (2,), generator=rng).tolist()
    return torch.roll(images, (down, right), (2, 3))
