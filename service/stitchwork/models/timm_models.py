"""Loads timm models as their weights, their config.json and a request describe them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from stitchwork.errors import InvalidInputError
from stitchwork.models.memory import is_out_of_memory
from stitchwork.models.timm_config import (
    LIBRARY_ERRORS,
    RGB,
    SOURCES,
    ModelConfig,
    pretrained_cfg,
    read_config,
    reason,
)
from stitchwork.models.timm_features import pooling
from stitchwork.models.timm_weights import (
    State,
    find_mismatch,
    find_weights,
    join_names,
    read_weights,
    strip_prefixes,
)
from stitchwork.resources import ImageEncoder


def load_timm_model(spec: ImageEncoder, weights: Path) -> Any:
    """The timm model of a spec, with as many classes as its weights have.

    Args:
        spec: The encoder.
        weights: Its safetensors file, or the folder of it.

    Raises:
        InvalidInputError: If timm has no such model, its weights do not fit, or it cannot be
            built as the request or its config.json says.
        UnsupportedFormatError: If the weights are not a safetensors file.
    """
    file = find_weights(weights)
    config = read_config(spec, file)
    state = read_weights(file, spec.model)
    options = _requested_options(spec, config)
    model = _build(spec, config, **options)
    state = strip_prefixes(state, model.state_dict())
    _resize_classifier(model, spec, config, state)
    mismatch = find_mismatch(state, model.state_dict())
    if mismatch is None:
        model.load_state_dict(state, strict=True)
        return model
    if options:
        return _adapt(spec, config, state, model, options)
    raise InvalidInputError(f"the weights do not fit {spec.model}: {mismatch}")


def _requested_options(spec: ImageEncoder, config: ModelConfig) -> dict[str, Any]:
    """Arguments of `create_model` for a side or channels other than those of the model's files."""
    own = pretrained_cfg(spec, config) or {}
    options: dict[str, Any] = {}
    channels, *size = own.get("input_size") or (RGB, 224, 224)
    if spec.in_chans is not None and spec.in_chans != channels:
        options["in_chans"] = spec.in_chans
    side = spec.input_size
    if side is not None and own.get("fixed_input_size") and tuple(size) != (side, side):
        options["img_size"] = side
    pool = config.global_pool
    if pool and "global_pool" not in config.model_args:
        with torch.device("meta"):
            default = pooling(_build(spec, config))
        if pool != default:
            options["global_pool"] = pool
    return options


def _build(spec: ImageEncoder, config: ModelConfig, **options: Any) -> Any:
    """A timm model, from its config.json if it has one, with other options where requested."""
    arguments = {**config.model_args, **options}
    own = None if config.pretrained_cfg is None else dict(config.pretrained_cfg)
    try:
        return timm.create_model(spec.model, pretrained_cfg=own, **arguments)
    except LIBRARY_ERRORS as error:
        if is_out_of_memory(error):
            raise
        suffix = f" with {_describe(arguments)}" if arguments else ""
        raise InvalidInputError(
            f"timm cannot build {spec.model}{suffix}: {reason(error)}"
        ) from error


def _resize_classifier(model: Any, spec: ImageEncoder, config: ModelConfig, state: State) -> None:
    """Give a model as many classes as its weights have, if no config.json says how many.

    timm must name its classifier.
    """
    if config.has_classes:
        return
    registered = timm.get_pretrained_cfg(spec.model)
    module = registered.classifier if registered else None
    # A distilled model has two classifiers with the same classes.
    name = f"{module[0] if isinstance(module, tuple) else module}.weight"
    own, loaded = model.state_dict().get(name), state.get(name)
    if own is None:
        return
    if loaded is None:
        model.reset_classifier(0)
    elif own.shape[1:] == loaded.shape[1:] and len(own) != len(loaded):
        # Only if the width fits, which bounds the new classifier by the size of the file.
        model.reset_classifier(len(loaded))


def _adapt(
    spec: ImageEncoder, config: ModelConfig, state: State, target: Any, options: dict[str, Any]
) -> Any:
    """A model whose weights timm resamples for another side or other channels.

    Args:
        spec: The encoder.
        config: Its config.json.
        state: Its weights, as they are in the file.
        target: A model of the requested side and channels.
        options: The side and channels, as timm's `create_model` takes them.

    Raises:
        InvalidInputError: If the weights do not fit the model as its files describe it, or timm
            does not adapt them.
    """
    changes = {name: value for name, value in options.items() if name != "global_pool"}
    pool = {name: value for name, value in options.items() if name == "global_pool"}
    with torch.device("meta"):
        source = _build(spec, config, **pool)
        _resize_classifier(source, spec, config, state)
    mismatch = find_mismatch(state, (source if changes else target).state_dict())
    if mismatch is not None:
        raise InvalidInputError(f"the weights do not fit {spec.model}: {mismatch}")
    own = {key: value for key, value in source.pretrained_cfg.items() if key not in SOURCES}
    own |= {"num_classes": target.num_classes, "label_offset": 0}
    described = _describe(changes)
    try:
        model = timm.create_model(
            spec.model,
            pretrained=True,
            pretrained_cfg={**own, "state_dict": dict(state)},
            pretrained_model_args=dict(config.model_args),
            **{**config.model_args, **options},
        )
    except LIBRARY_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise InvalidInputError(
            f"timm cannot adapt the weights of {spec.model} to {described}: {reason(error)}"
        ) from error
    model.pretrained_cfg = model.default_cfg = own
    lost = _initial_tensors(model, target, state)
    if lost:
        raise InvalidInputError(
            f"timm cannot adapt the weights of {spec.model} to {described}: it leaves "
            f"{join_names(lost)} at their initial values"
        )
    return model


def _initial_tensors(model: Any, target: Any, state: State) -> list[str]:
    """The tensors of an adapted model that are not from its weights.

    A model's own loading may be lenient; what it does not load is random.

    Args:
        model: The adapted model.
        target: One with the same shapes and initial values of its own.
        state: The weights that were adapted.
    """
    initial, lost = target.state_dict(), []
    for name, tensor in model.state_dict().items():
        if name not in state:
            lost.append(name)
        elif tensor.shape == state[name].shape:
            if not torch.equal(tensor, state[name].to(tensor)):
                lost.append(name)
        elif tensor.ndim > 1 and torch.equal(tensor, initial[name]):
            lost.append(name)
    return lost


def _describe(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())
