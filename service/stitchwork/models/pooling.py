"""Pooling of the hidden states of texts, and the modules after it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from stitchwork.models.sentence_transformers_files import ModuleFiles, refusal
from stitchwork.resources import TokenPooling

ACTIVATIONS: Final = (
    *("ELU", "GELU", "Hardtanh", "Identity", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SELU", "SiLU"),
    *("Sigmoid", "Softplus", "Softsign", "Tanh"),
)
"""Classes of torch.nn that a Dense module may name; all have defaults for their arguments."""
WEIGHTS_FILE: Final = "model.safetensors"


def pool(
    hidden: torch.Tensor,
    mask: torch.Tensor,
    lengths: torch.Tensor,
    pooling: TokenPooling | Sequence[TokenPooling],
) -> torch.Tensor:
    """Pool the hidden states of each text.

    Args:
        hidden: (n, t, d) hidden states, right-padded.
        mask: (n, t), 1 at tokens that are pooled, 2 at first tokens that are left out, else 0.
        lengths: (n,) numbers of tokens.
        pooling: A mode, or several whose results are concatenated.

    Returns:
        (n, d) for each mode; padding does not affect it.
    """
    modes = (pooling,) if isinstance(pooling, str) else tuple(pooling)
    pooled = [_pool(hidden, mask, lengths, mode) for mode in modes]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)


def _pool(
    hidden: torch.Tensor,
    mask: torch.Tensor,
    lengths: torch.Tensor,
    mode: TokenPooling,
) -> torch.Tensor:
    if mode in ("cls", "last"):
        position = (mask == 2).sum(dim=1) if mode == "cls" else lengths - 1
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), position]
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None, :, None]
    weights = (mask == 1)[:, :, None].to(hidden.dtype)
    if mode == "max":
        return hidden.masked_fill(weights == 0, float("-inf")).max(dim=1).values
    if mode == "weightedmean":
        weights = weights * (positions + 1)
    total = weights.sum(dim=1)
    return (hidden * weights).sum(dim=1) / (total.sqrt() if mode == "mean_sqrt_len" else total)


class Normalize(torch.nn.Module):
    """Scales rows (n, d) to unit length."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows divided by their norms."""
        return torch.nn.functional.normalize(rows, dim=1)


class Dense(torch.nn.Module):
    """A linear layer and an activation, with an optional residual connection."""

    def __init__(
        self,
        linear: torch.nn.Linear,
        activation: torch.nn.Module,
        residual: torch.nn.Module | None,
    ) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation
        self.residual = residual

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (n, in) to rows (n, out)."""
        output: torch.Tensor = self.activation(self.linear(rows))
        return output if self.residual is None else output + self.residual(rows)


def build_modules(
    name: str, modules: Sequence[ModuleFiles], width: int
) -> tuple[torch.nn.Sequential, int]:
    """The modules after the pooling, with their weights.

    Args:
        name: Name of the model in errors.
        modules: Their files.
        width: Width of the pooled rows.

    Returns:
        The modules, and the width of their output.

    Raises:
        JobFailedError: If a module does not fit the width, or its weights do not fit its options.
    """
    built: list[torch.nn.Module] = []
    for files in modules:
        if files.name == "Normalize":
            built.append(Normalize())
            continue
        key = "in_features" if files.name == "Dense" else "dimension"
        if int(files.config[key]) != width:
            raise refusal(
                name,
                f"its module {files.folder.name} expects rows of {files.config[key]} numbers, "
                f"the pooling gives {width}",
            )
        if files.name == "Dense":
            built.append(_dense(name, files))
            width = int(files.config["out_features"])
        else:
            built.append(_layer_norm(name, files))
    return torch.nn.Sequential(*built).eval(), width


def _dense(name: str, files: ModuleFiles) -> Dense:
    config = files.config
    wide, out = int(config["in_features"]), int(config["out_features"])
    linear = torch.nn.Linear(wide, out, bias=bool(config.get("bias", True)))
    residual: torch.nn.Module | None = None
    if config.get("use_residual"):
        residual = torch.nn.Identity() if wide == out else torch.nn.Linear(wide, out, bias=False)
    dense = Dense(linear, _activation(name, files), residual)
    _load_weights(name, files.folder, dense)
    return dense


def _layer_norm(name: str, files: ModuleFiles) -> torch.nn.Module:
    holder = torch.nn.Module()
    norm = torch.nn.LayerNorm(int(files.config["dimension"]))
    holder.norm = norm
    _load_weights(name, files.folder, holder)
    return norm


def _activation(name: str, files: ModuleFiles) -> torch.nn.Module:
    path = str(files.config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    class_name = path.rsplit(".", 1)[-1]
    if not path.startswith("torch.nn.") or class_name not in ACTIVATIONS:
        raise refusal(
            name, f"the activation {path} of its module {files.folder.name} is not supported"
        )
    activation: torch.nn.Module = getattr(torch.nn, class_name)()
    return activation


def load_tensors(name: str, folder: Path) -> dict[str, Any]:
    """The tensors of a module's safetensors file, in private memory."""
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise refusal(
            name, f"{folder.name}/{WEIGHTS_FILE} is missing; weights in pickles are never read"
        )
    return load_file(file, backend="pread")


def _load_weights(name: str, folder: Path, module: torch.nn.Module) -> None:
    tensors = {key: tensor.float() for key, tensor in load_tensors(name, folder).items()}
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise refusal(name, f"the weights of its module {folder.name}: {detail}") from error
