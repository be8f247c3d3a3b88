"""Loading of transformers models: none of their weights may be missing, unexpected or resized."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

from stitchwork.errors import ErrorCode, JobFailedError

LOCAL_FILES_ONLY: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}
PRIVATE_WEIGHTS: Final[dict[str, Any]] = {"use_safetensors": True, "disable_mmap": True}
"""Weights are copied into memory: a mapped file would change them, or end the process, when it is
written to."""
TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken")

MAX_NAMES: Final = 8
"""Maximum weights that an error names; the number of the others is added."""
WRAPPER_PREFIXES: Final = {
    "module.": "DataParallel",
    "_orig_mod.": "torch.compile",
    "model.": "another module",
}
BASE_CLASSES: Final = {
    "FunnelForSequenceClassification": "FunnelBaseModel",
    "FunnelForMultipleChoice": "FunnelBaseModel",
}
"""Base models of classes whose base is not the one that transformers loads by default."""
HEAD_NAMES: Final = frozenset(
    {
        *("cls", "classifier", "pre_classifier", "score", "head", "heads", "lm_head", "qa_outputs"),
        *("predictions", "discriminator_predictions", "generator_predictions"),
        *("generator_lm_head", "vocab_transform", "vocab_layer_norm", "vocab_projector"),
    }
)
"""Modules that transformers' heads consist of; a base model does not use their weights."""


def load_tokenizer(name: str, folder: Path) -> Any:
    """Load the tokenizer of a model.

    Raises:
        JobFailedError: If there is no such folder, or no tokenizer in it. transformers would make
            an empty one.
    """
    if not folder.is_dir():
        raise _load_failed(f"{name} cannot be loaded: the worker finds no folder at its path")
    if not any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        raise _load_failed(
            f"{name} has no tokenizer: expected a file of {', '.join(TOKENIZER_FILES)}"
        )
    return AutoTokenizer.from_pretrained(folder, **LOCAL_FILES_ONLY)


def load_base_model(name: str, folder: Path) -> Any:
    """Load a model without its head, or the encoder of an encoder-decoder model.

    Args:
        name: Name of the model in errors.
        folder: The folder of its files.

    Returns:
        The model in evaluation mode.

    Raises:
        JobFailedError: If weights are missing, unexpected or of another shape.
    """
    config = AutoConfig.from_pretrained(folder, **LOCAL_FILES_ONLY)
    encoder_class = _encoder_class(config)
    if encoder_class is not None:
        return load_weights(name, encoder_class, folder, other_parts=("decoder",))
    own = str((getattr(config, "architectures", None) or [""])[0])
    model_class = getattr(transformers, BASE_CLASSES[own]) if own in BASE_CLASSES else AutoModel
    model = load_weights(name, model_class, folder)
    return model.get_encoder() if getattr(config, "is_encoder_decoder", False) else model


def _encoder_class(config: Any) -> Any:
    """The class of a model's encoder, if transformers can load it without the decoder."""
    own = str((getattr(config, "architectures", None) or [""])[0])
    name = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "")
    if not name.endswith("EncoderModel"):
        name = own if own.endswith("EncoderModel") else ""
    return getattr(transformers, name, None) if name else None


def load_weights(
    name: str,
    model_class: Any,
    folder: Path,
    *,
    other_parts: Collection[str] = (),
    unused_pooler: bool = True,
) -> Any:
    """Load a model, none of whose weights may be missing, unexpected or resized.

    Args:
        name: Name of the model in errors.
        model_class: The class that loads it.
        folder: The folder of its files.
        other_parts: As for `check_weights`.
        unused_pooler: As for `check_weights`.

    Returns:
        The model in evaluation mode, its weights float32, with torch's attention, or with eager
        attention if it supports no other. The implementation is always named, so that a config
        cannot request a kernel from the hub.

    Raises:
        JobFailedError: If the weights do not fit.
    """
    try:
        model, info = _load(model_class, folder, "sdpa")
    except ValueError:
        model, info = _load(model_class, folder, "eager")
    check_weights(name, model, info, other_parts=other_parts, unused_pooler=unused_pooler)
    return model.eval()


def _load(auto_class: Any, folder: Path, attention: str) -> tuple[Any, dict[str, Any]]:
    model, info = auto_class.from_pretrained(
        folder,
        attn_implementation=attention,
        # Weights in half precision are computed with in full: rows must not depend on the batch.
        dtype=torch.float32,
        output_loading_info=True,
        # Otherwise the error names no weights; `check_weights` refuses them.
        ignore_mismatched_sizes=True,
        **PRIVATE_WEIGHTS,
        **LOCAL_FILES_ONLY,
    )
    return model, info


def check_weights(
    name: str,
    model: Any,
    info: dict[str, Any],
    *,
    other_parts: Collection[str] = (),
    unused_pooler: bool = True,
) -> None:
    """Refuse a model with weights that its files lack, that it does not use, or that do not fit.

    transformers would initialise missing weights at random, and ignore the others.

    Args:
        name: Name of the model in errors.
        model: The model.
        info: What transformers reports of loading it.
        other_parts: Modules whose weights may be in the files without being used, besides the
            heads of other tasks.
        unused_pooler: Whether its pooler is not used, and may be missing.

    Raises:
        JobFailedError: If there are such weights; all are named, up to a number.
    """
    missing = sorted(
        key for key in info["missing_keys"] if not (unused_pooler and key.startswith("pooler."))
    )
    mismatched = sorted(
        f"{key} {tuple(stored)} instead of {tuple(own)}"
        for key, stored, own in info["mismatched_keys"]
    )
    all_unexpected = sorted(info["unexpected_keys"])
    unexpected = [key for key in all_unexpected if not _is_other_head(key, model, other_parts)]
    problems = [
        f"{verb}: {_list(keys)}"
        for verb, keys in (
            ("missing", missing),
            ("unexpected", all_unexpected if missing else unexpected),
            ("of another shape", mismatched),
        )
        if keys
    ]
    if not (missing or unexpected or mismatched):
        return
    message = f"the weights of {name} do not fit {type(model).__name__}; {'; '.join(problems)}"
    prefix = _common_prefix(missing, all_unexpected)
    if prefix:
        saved = WRAPPER_PREFIXES.get(prefix)
        origin = f", as those of a model that was saved inside of {saved}" if saved else ""
        message += f". The names in the file begin with {prefix!r}{origin}: save it without"
    raise _load_failed(message)


def _is_other_head(key: str, model: Any, other_parts: Collection[str]) -> bool:
    """Whether a weight that the model does not use belongs to the head of another task.

    A pooler belongs to a head where the base model has none.
    """
    root = key.split(".", 1)[0]
    own = {name for name, _ in model.named_children()}
    if "pooler" not in own and key.removeprefix(f"{model.base_model_prefix}.")[:7] == "pooler.":
        return True
    if root in own or root == model.base_model_prefix:
        return False
    architectures = getattr(model.config, "architectures", None) or ()
    has_head = any(architecture != type(model).__name__ for architecture in architectures)
    return has_head or root in HEAD_NAMES or root in other_parts


def _common_prefix(missing: Sequence[str], unexpected: Collection[str]) -> str:
    """The prefix with which every missing weight is among the unexpected ones; empty if none."""
    if not missing:
        return ""
    prefixes = [key.removesuffix(missing[0]) for key in unexpected if key.endswith(missing[0])]
    names = set(unexpected)
    return next((p for p in prefixes if all(p + key in names for key in missing)), "")


def _list(names: Sequence[str]) -> str:
    others = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {others} others" if others > 0 else "")


def _load_failed(message: str) -> JobFailedError:
    return JobFailedError(message, code=ErrorCode.LOAD_FAILED)
