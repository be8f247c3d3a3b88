"""Trains small image encoders from scratch, so that encoders can share nothing but their data."""

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
from stitchwork.models.image_files import decode

BATCH: Final = 64
LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 0.02
SHIFT_FRACTION: Final = 8
"""Training images are shifted by up to one part in this many of their side."""


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
    """Train a timm model on labelled images, and save it as the service loads it.

    The model keeps its original classifier, of which only the first logits are used, so that its
    weights have the shapes that timm expects.

    Args:
        model: Name of a small timm model.
        images: n image files.
        labels: (n,) int64, their classes, from 0.
        path: The safetensors file to write.
        input_size: Side of the images in pixels.
        epochs: Number of passes over the images.
        seed: Seed of the initial weights, the order and the shifts.
        test_data: Images for evaluation, and their classes.
        progress: Called after each epoch.

    Returns:
        Accuracy of the model's classifier on the test data.

    Raises:
        InvalidInputError: If timm has no such model, its classifier has too few classes, the
            numbers of images and labels differ, or there are too few for a batch.
    """
    if not timm.is_model(model):
        raise InvalidInputError(f"timm has no model {model}")
    if len(images) != len(labels) or len(labels) < BATCH:
        raise InvalidInputError(
            f"expected one label for each of at least {BATCH} images, got {len(labels)} labels "
            f"and {len(images)} images"
        )
    # Forked, so that the random state of the process is unchanged.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = timm.create_model(model, pretrained=False)
    classes = int(labels.max()) + 1
    if classes > net.num_classes:
        raise InvalidInputError(
            f"expected at most {net.num_classes} classes for {model}, got {classes}"
        )
    config = resolve_data_config({"input_size": (3, input_size, input_size)}, model=net)
    transform = create_transform(**config, is_training=False)

    def pixels(files: Sequence[bytes]) -> torch.Tensor:
        return torch.stack([transform(decode(f, f"/items/{i}")) for i, f in enumerate(files)])

    rng = torch.Generator().manual_seed(seed)
    _fit(net, pixels(images), torch.as_tensor(labels), classes, epochs, rng, progress)
    save_file({key: tensor.contiguous() for key, tensor in net.state_dict().items()}, path)
    files, truth = test_data
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(files), BATCH):
            predicted = net(pixels(files[start : start + BATCH]))[:, :classes].argmax(1)
            correct += int((predicted.numpy() == truth[start : start + BATCH]).sum())
    return correct / len(files)


def _fit(
    net: torch.nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    epochs: int,
    rng: torch.Generator,
    progress: Callable[[], None],
) -> None:
    """Train the first logits of a network on pixels (n, 3, h, w) and labels (n,)."""
    steps = len(labels) // BATCH
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * steps
    )
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=rng)
        for start in range(0, steps * BATCH, BATCH):
            batch = order[start : start + BATCH]
            augmented = _shift(pixels[batch], pixels.shape[2] // SHIFT_FRACTION, rng)
            loss = torch.nn.functional.cross_entropy(net(augmented)[:, :classes], labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        progress()
    net.eval()


def _shift(images: torch.Tensor, limit: int, rng: torch.Generator) -> torch.Tensor:
    """Roll images by the same random offset of at most `limit` pixels in each direction."""
    down, right = torch.randint(-limit, limit + 1, (2,), generator=rng).tolist()
    return torch.roll(images, (down, right), (2, 3))
