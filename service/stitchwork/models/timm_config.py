"""What describes a timm model: the request, its config.json, else timm's own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import timm
from timm.data import resolve_data_config
from timm.models._hub import load_model_config_from_path

from stitchwork.errors import InvalidInputError
from stitchwork.models.timm_weights import find_weights
from stitchwork.resources import ImageEncoder, timm_hub_address

CONFIG_FILE: Final = "config.json"
SOURCES: Final = ("file", "source", "hf_hub_id", "hf_hub_filename", "url", "custom_load")
"""Fields of timm's description of a model that say where its weights are."""
RGB: Final = 3
MAX_REASON: Final = 300
"""Characters of a library's message that an error quotes."""
LIBRARY_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What timm's models raise when they cannot be built or run as requested."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What timm's config.json says of a model.

    Attributes:
        pretrained_cfg: The preprocessing and the classes.
        model_args: Arguments of timm's `create_model`.
        global_pool: The pooling of the features.
        labels: Names of the classes, or indices and names.
        has_classes: Whether the file says how many classes there are.
    """

    pretrained_cfg: Mapping[str, Any] | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    global_pool: str | None = None
    has_classes: bool = False

    @property
    def labels(self) -> Any:
        """Names of the classes, in order or by index; None if the file has none."""
        return (self.pretrained_cfg or {}).get("label_names")


def with_architecture(spec: ImageEncoder, weights: Path) -> ImageEncoder:
    """The spec with the name of the architecture in timm.

    Args:
        spec: The encoder. The model of an address on the hub has its architecture in config.json.
        weights: Its safetensors file, or the folder of it.

    Raises:
        InvalidInputError: If the config.json names none.
    """
    if timm_hub_address(spec) is None:
        return spec
    path = find_weights(weights).parent / CONFIG_FILE
    try:
        architecture = json.loads(path.read_bytes())["architecture"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"expected a {CONFIG_FILE} of timm with an architecture in {spec.model}, got none"
        ) from error
    return spec.model_copy(update={"model": str(architecture)})


def read_config(spec: ImageEncoder, weights: Path) -> ModelConfig:
    """The timm config.json beside the weights; an empty one if there is none.

    Args:
        spec: The encoder.
        weights: Its safetensors file.

    Raises:
        InvalidInputError: If timm has no such model, or the file is invalid or of another model.
    """
    check_known(spec)
    path = weights.parent / CONFIG_FILE
    if not path.is_file():
        return ModelConfig()
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or "architecture" not in content:
            return ModelConfig()  # It belongs to another library.
        described, name, model_args = load_model_config_from_path(path.parent)
    except (*LIBRARY_ERRORS, OSError) as error:
        raise InvalidInputError(
            f"the {CONFIG_FILE} of {spec.model} is invalid: {reason(error)}"
        ) from error
    if name.partition(".")[0] != spec.model.partition(".")[0]:
        raise InvalidInputError(
            f"the {CONFIG_FILE} beside the weights describes {name}, expected {spec.model}"
        )
    return ModelConfig(
        {key: described[key] for key in described if key not in SOURCES} | {"architecture": name},
        model_args,
        content.get("global_pool"),
        "num_classes" in described,
    )


def resolve_preprocessing(spec: ImageEncoder, weights: Path) -> ImageEncoder:
    """The spec with the preprocessing that is in force: the request's, else the model's.

    Args:
        spec: The encoder.
        weights: Its safetensors file, or the folder of it.

    Returns:
        The spec with `mean`, `std`, `crop_pct`, `interpolation`, `in_chans` and, if images are
        square, `input_size`.

    Raises:
        InvalidInputError: If the mean or the standard deviation does not fit the channels, or the
            model takes neither RGB nor grey images.
    """
    fields = ("mean", "std", "crop_pct", "interpolation", "in_chans", "input_size")
    if all(getattr(spec, name) is not None for name in fields):
        return spec
    known = with_architecture(spec, weights)
    data = data_config(known, read_config(known, find_weights(weights)))
    channels, height, width = data["input_size"]
    return spec.model_copy(
        update={
            "mean": tuple(map(float, data["mean"])),
            "std": tuple(map(float, data["std"])),
            "crop_pct": float(data["crop_pct"]),
            "interpolation": data["interpolation"],
            "in_chans": channels,
            "input_size": width if width == height else None,
        }
    )


def data_config(spec: ImageEncoder, config: ModelConfig) -> dict[str, Any]:
    """Arguments of timm's `create_transform`: the request's, else those of the model's files.

    Raises:
        InvalidInputError: As `resolve_preprocessing`.
    """
    own = pretrained_cfg(spec, config) or timm.create_model(spec.model).pretrained_cfg
    channels, *size = own.get("input_size") or (RGB, 224, 224)
    wanted = spec.in_chans or channels
    if wanted not in (1, RGB):
        raise InvalidInputError(
            f"{spec.model} takes images of {wanted} channels, expected 1 (grey) or 3 (RGB)"
        )
    side = spec.input_size
    override = {
        "input_size": (wanted, side, side) if side else (wanted, *size),
        "crop_pct": spec.crop_pct,
        "interpolation": spec.interpolation,
    }
    data: dict[str, Any] = resolve_data_config(override, pretrained_cfg=dict(own))
    for name, requested in (("mean", spec.mean), ("std", spec.std)):
        data[name] = _per_channel(spec, name, requested, data[name], wanted)
    return data


def _per_channel(
    spec: ImageEncoder,
    name: str,
    requested: tuple[float, ...] | None,
    own: tuple[float, ...],
    channels: int,
) -> tuple[float, ...]:
    values = requested if requested is not None else tuple(own)
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    if requested is None and channels == 1:
        # timm adds up the weights of the three channels; none of their statistics is that of grey.
        return (sum(values) / len(values),)
    raise InvalidInputError(
        f"expected the {name} of {spec.model} as 1 or {channels} numbers, got {len(values)}"
    )


def pretrained_cfg(spec: ImageEncoder, config: ModelConfig) -> dict[str, Any] | None:
    """The description of a model: that of its config.json, else timm's own if it has one."""
    if config.pretrained_cfg is not None:
        return dict(config.pretrained_cfg)
    registered = timm.get_pretrained_cfg(spec.model)
    return dict(registered.to_dict()) if registered else None


def check_known(spec: ImageEncoder) -> None:
    """Refuse a model that timm does not have.

    Raises:
        InvalidInputError: If timm has no such model.
    """
    if not timm.is_model(spec.model):
        raise InvalidInputError(f"timm has no model {spec.model}")


def timm_hub_id(spec: ImageEncoder) -> str:
    """Id of timm's pretrained weights of a model on the hub.

    Raises:
        InvalidInputError: If timm has no such model, or no weights for it on the hub.
    """
    check_known(spec)
    config = timm.get_pretrained_cfg(spec.model)
    if config is None or not config.hf_hub_id:
        raise InvalidInputError(f"timm has no pretrained weights for {spec.model} on the hub")
    return str(config.hf_hub_id)


def reason(error: BaseException) -> str:
    """A library's message on one line, with the type of the error if it has none."""
    message = " ".join(str(error).split())
    return message[:MAX_REASON] or type(error).__name__
