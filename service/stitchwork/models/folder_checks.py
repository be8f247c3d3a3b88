"""Refuses folders that transformers cannot load as they are, each with its cause."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import transformers
from packaging.version import InvalidVersion, Version
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from stitchwork.errors import ErrorCode, JobFailedError
from stitchwork.models.sentence_transformers_files import refusal

ADAPTER_FILE: Final = "adapter_config.json"
CONFIG_FILE: Final = "config.json"
OTHER_WEIGHTS: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx")
"""Files of weights that are not read: pickles, and formats of other libraries."""


def check_folder(name: str, folder: Path) -> None:
    """Refuse a folder whose model needs code, pickles, another model or another library.

    Code is never run: where transformers has the architecture itself, its own class is used.

    Args:
        name: Name of the model in errors.
        folder: The folder of its files.

    Raises:
        JobFailedError: If it cannot be loaded as it is; the message says what to do instead.
    """
    if (folder / ADAPTER_FILE).exists():
        base = _read_json(folder / ADAPTER_FILE).get("base_model_name_or_path") or "another model"
        raise JobFailedError(
            f"{name} is an adapter for {base}, which is not supported: merge the two with PEFT's "
            "merge_and_unload, and save the merged model",
            code=ErrorCode.LOAD_FAILED,
        )
    gguf = sorted(file.name for file in folder.glob("*.gguf"))
    if gguf and not (folder / CONFIG_FILE).is_file():
        raise refusal(name, f"{gguf[0]} is in the GGUF format, expected safetensors files")
    if not (folder / CONFIG_FILE).is_file():
        raise refusal(name, f"expected a folder with a file {CONFIG_FILE}")
    config = PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0]
    _check_architecture(name, config)
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") or "an unnamed method"
        raise refusal(
            name,
            f"its weights are quantised ({method}), which is not supported: use the weights that "
            "they were made from",
        )
    _check_weights_format(name, folder)


def _check_architecture(name: str, config: dict[str, Any]) -> None:
    model_type = config.get("model_type")
    if model_type == "timm_wrapper":
        raise refusal(
            name,
            "it is a model of timm inside of transformers: save its timm_model with timm's "
            "save_for_hf, and use an encoder of kind timm",
        )
    if model_type is None and "architecture" in config:
        raise refusal(
            name, f"it is a model of timm ({config['architecture']}): use an encoder of kind timm"
        )
    if "auto_map" in config and model_type not in MODEL_MAPPING_NAMES:
        raise JobFailedError(
            f"{name} contains code, which is never run, and transformers has no "
            f"{model_type or 'such'} model",
            code=ErrorCode.LOAD_FAILED,
        )
    if model_type is None:
        raise refusal(name, f"its {CONFIG_FILE} names no model_type")
    if model_type not in CONFIG_MAPPING_NAMES:
        raise refusal(
            name,
            f"transformers {transformers.__version__} has no architecture {model_type!r}"
            + _newer_release(config),
        )


def _newer_release(config: dict[str, Any]) -> str:
    """A clause that names the later release of transformers that saved a model; empty if none."""
    saved = str(config.get("transformers_version") or "")
    try:
        is_newer = Version(saved) > Version(transformers.__version__)
    except InvalidVersion:
        return ""
    if not is_newer:
        return ""
    return (
        f"; the model was saved by the later release {saved}: install that release on the workers"
        f", which have {transformers.__version__}"
    )


@contextmanager
def release_noted(folder: Path) -> Generator[None, None, None]:
    """A context whose errors of the library say if a later release of it saved the model."""
    try:
        yield
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if note := _newer_release(_read_json(folder / CONFIG_FILE)):
            error.add_note(note)
        raise


def _check_weights_format(name: str, folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    others = sorted(file.name for pattern in OTHER_WEIGHTS for file in folder.glob(pattern))
    listed = f"got only {', '.join(others)}" if others else "got none"
    raise refusal(
        name,
        f"expected weights in safetensors files, {listed}. Pickles are never read, since they can "
        "run code: load the model where you trust it, and save it with save_pretrained",
    )


def _read_json(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
