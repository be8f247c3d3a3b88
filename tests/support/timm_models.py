"""timm models with random weights, saved as timm saves them."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file


def random_model(name: str, **options: Any) -> Any:
    """A timm model with random weights and statistics, the same each time, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, **options)
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
                mean, variance = layer.running_mean, layer.running_var
                if mean is not None and variance is not None:
                    mean.normal_(0, 0.1)
                    variance.uniform_(0.5, 1.5)
            elif isinstance(layer, torch.nn.Linear) and not layer.weight.any():
                # Some classifiers begin at zero, where every comparison of logits succeeds.
                torch.nn.init.normal_(layer.weight, std=0.02)
    return model.eval()


def save_random(name: str, folder: Path, **options: Any) -> Any:
    """Write the weights of a random model to `model.safetensors`, and return the model."""
    model = random_model(name, **options)
    save(model, folder)
    return model


def save(model: Any, folder: Path) -> None:
    """Write the weights of a model to `model.safetensors`."""
    state = {key: tensor.contiguous().clone() for key, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
