"""A real timm model with planted faults, and a worker that knows it.

`python -m tests.support.faulty_model worker` is `stitchwork worker` with one more model.
Its features are pooled pixels; images of one solid colour make it fail in ways that real models do.
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

NAME: Final = "faulty_model"
FOLDER: Final = "FAULTY_MODEL_FOLDER"
"""Environment variable with the folder through which a test and the model signal each other."""
CONTINUE, SPARE = "continue", "spare"
"""Files that a test creates: `WAITS` images are computed, `KILLS` images kill no more."""
WAITING: Final = "waiting-*"
"""Files that the model creates when it begins with a `WAITS` image; they end in its process id."""

COMPUTED: Final = "computed-*"
"""Files with the number of `SLOW` images of each batch so far; they end in the process id."""

Colour = tuple[int, int, int]
KILLS: Final[Colour] = (255, 0, 0)
HANGS: Final[Colour] = (0, 255, 0)
STARVES: Final[Colour] = (0, 0, 255)
"""Runs out of memory in any batch."""
CROWDED: Final[Colour] = (255, 255, 0)
"""Runs out of memory unless it is alone."""
WAITS: Final[Colour] = (0, 255, 255)
"""Signals that it is being computed, and waits for `CONTINUE`."""
SLOW: Final[Colour] = (255, 0, 255)
"""Takes `SLOW_SECONDS`."""
SLOW_SECONDS: Final = 0.05
HUGE: Final = 1 << 60
"""Numbers that fit no machine's memory."""
TIMEOUT: Final = 60.0


class FaultyModel(torch.nn.Module):
    """Pools pixels to 4 × 4 × 3 numbers, and fails on images of certain colours."""

    num_features = 48

    def __init__(self, pretrained_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.pretrained_cfg = pretrained_cfg
        self.scale = torch.nn.Parameter(torch.ones(self.num_features))

    def reset_classifier(self, num_classes: int) -> None:
        """Do nothing: there is no classifier."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 48) of (n, 3, h, w)."""
        colours = [_colour(image) for image in pixels]
        if KILLS in colours and not _exists(SPARE):
            os.kill(os.getpid(), signal.SIGKILL)
        if HANGS in colours:
            threading.Event().wait()
        if STARVES in colours or (CROWDED in colours and len(colours) > 1):
            torch.empty(HUGE)
        if WAITS in colours:
            _wait()
        _count(colours.count(SLOW))
        time.sleep(SLOW_SECONDS * colours.count(SLOW))
        return self.forward_head(self.forward_features(pixels))

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, 4, 4) of (n, 3, h, w), without any fault."""
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 4)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = True) -> torch.Tensor:
        """(n, 48) of (n, 3, 4, 4)."""
        return features.flatten(1) * self.scale


def _colour(image: torch.Tensor) -> Colour | None:
    low, high = image.amin(dim=(1, 2)), image.amax(dim=(1, 2))
    if bool((high - low).max() > 0.02):
        return None
    red, green, blue = (round(float(value)) * 255 for value in (low + 1) / 2)
    return red, green, blue


def _wait() -> None:
    folder, end = Path(os.environ[FOLDER]), time.monotonic() + TIMEOUT
    (folder / WAITING.replace("*", str(os.getpid()))).touch()
    while not _exists(CONTINUE) and time.monotonic() < end:
        time.sleep(0.01)


def _count(images: int) -> None:
    if images:
        path = Path(os.environ[FOLDER]) / COMPUTED.replace("*", str(os.getpid()))
        with path.open("a") as file:
            file.write(f"{images}\n")


def computed(folder: Path) -> int:
    """How many `SLOW` images were computed so far."""
    return sum(int(n) for path in folder.glob(COMPUTED) for n in path.read_text().split())


def _exists(name: str) -> bool:
    return (Path(os.environ[FOLDER]) / name).exists()


@register_model  # type: ignore[untyped-decorator]
def faulty_model(pretrained: bool = False, **options: Any) -> FaultyModel:
    """The function by which timm creates the model."""
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
    # Its branches are in Python, which compiling would trace once and then skip.
    os.environ["STITCHWORK_COMPILE_MODELS"] = "false"
    sys.exit(main(sys.argv[1:]))
