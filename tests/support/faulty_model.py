"""A real timm model with planted faults, and a worker that knows it.

`python -m tests.support.faulty_model worker` is `stitchwork worker` with one more model.
Its features are the pooled pixels; images of one solid colour make it fail in the ways that real
models do.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model

NAME: Final = "saboteur"
FOLDER: Final = "SABOTEUR_FOLDER"
"""Where a model that waits says so, and what it is told lies."""
GO, MERCY = "go", "mercy"
"""Files that tell it to go on, and to kill no more."""

Colour = tuple[int, int, int]
KILLS: Final[Colour] = (255, 0, 0)
HANGS: Final[Colour] = (0, 255, 0)
STARVES: Final[Colour] = (0, 0, 255)
"""Runs out of memory, whatever else is in the batch."""
CROWDED: Final[Colour] = (255, 255, 0)
"""Runs out of memory unless it is alone."""
WAITS: Final[Colour] = (0, 255, 255)
"""Says that it is being computed, and goes on once it is told to."""
SLOW: Final[Colour] = (255, 0, 255)
"""Takes a twentieth of a second."""
NO_MACHINE: Final = 1 << 60
PATIENCE: Final = 60.0


class FaultyModel(torch.nn.Module):
    """Pools pixels to 4 × 4 × 3 numbers, unless the colour of an image asks for trouble."""

    num_features = 48

    def __init__(self, pretrained_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.pretrained_cfg = pretrained_cfg
        self.scale = torch.nn.Parameter(torch.ones(self.num_features))

    def reset_classifier(self, num_classes: int) -> None:
        """There is none."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 48) of (n, 3, h, w)."""
        colours = [_colour(image) for image in pixels]
        if KILLS in colours and not _told(MERCY):
            os.kill(os.getpid(), signal.SIGKILL)
        if HANGS in colours:
            threading.Event().wait()
        if STARVES in colours or (CROWDED in colours and len(colours) > 1):
            torch.empty(NO_MACHINE)
        if WAITS in colours:
            _wait_for_word()
        time.sleep(0.05 * colours.count(SLOW))
        pooled = torch.nn.functional.adaptive_avg_pool2d(pixels, 4)
        return pooled.flatten(1) * self.scale


def _colour(image: torch.Tensor) -> Colour | None:
    low, high = image.amin(dim=(1, 2)), image.amax(dim=(1, 2))
    if bool((high - low).max() > 0.02):
        return None
    red, green, blue = (round(float(value)) * 255 for value in (low + 1) / 2)
    return red, green, blue


def _wait_for_word() -> None:
    folder, until = Path(os.environ[FOLDER]), time.monotonic() + PATIENCE
    (folder / f"waits-{os.getpid()}").touch()
    while not _told(GO) and time.monotonic() < until:
        time.sleep(0.01)


def _told(word: str) -> bool:
    return (Path(os.environ[FOLDER]) / word).exists()


@register_model  # type: ignore[untyped-decorator]
def faulty_model(pretrained: bool = False, **options: Any) -> FaultyModel:
    """The model's entry in timm."""
    half = (0.5, 0.5, 0.5)
    return FaultyModel(
        {
            "input_size": (3, 32, 32),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": half,
            "std": half,
        }
    )


def write_weights(path: Path, scale: float = 1.0) -> Path:
    """The model's weights as a safetensors file; another scale makes another space."""
    save_file({"scale": torch.full((FaultyModel.num_features,), scale)}, path)
    return path


if __name__ == "__main__":
    from stitchwork.cli.main import main

    assert timm.is_model(NAME)
    # It looks at its inputs in Python, of which a compiler keeps nothing.
    sys.exit(main([*sys.argv[1:], "--no-compile-models"]))
