"""What is in force for a text encoder: the declaration, completed by the model's own files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from transformers import AutoModel

from stitchwork.errors import InvalidInputError
from stitchwork.models.folder_checks import check_folder, release_noted
from stitchwork.models.matryoshka import resolve_dimensions
from stitchwork.models.pretrained_weights import load_tokenizer
from stitchwork.models.projections import has_projection, read_config, tower_class
from stitchwork.models.sentence_transformers_files import (
    SentenceTransformersFiles,
    is_static,
    read_files,
    read_transformer,
)
from stitchwork.models.text_loading import check_projection
from stitchwork.resources import PoolingMode, TextEncoder

DEFAULT_LENGTH: Final = 512
UNLIMITED_LENGTH: Final = 1_000_000
"""Tokenizers without a limit report a length above this."""


def resolve_spec(spec: TextEncoder, folder: Path) -> tuple[TextEncoder, SentenceTransformersFiles]:
    """Complete a declaration by the model's files, except for its maximum length.

    Args:
        spec: The declaration. What it names is in force; what it leaves open, the files decide.
        folder: The folder of the files.

    Returns:
        The completed declaration, and the files without the modules that are not in force.

    Raises:
        InvalidInputError: If the declaration names a prompt or modules that the model does not
            have, or a pooling or layer that it cannot have.
        JobFailedError: If the files cannot be followed.
    """
    alone = spec.modules == () and spec.prompt == "" and spec.prompt_name is None
    if alone and None not in (spec.pooling, spec.normalize, spec.lower_case):
        # Nothing of the other modules is in force, and their files need not be complete.
        files = _transformer_alone(spec.model, folder)
    else:
        files = read_files(spec.model, folder)
    names = tuple(module.name for module in files.modules)
    if spec.modules == ():
        files = replace(files, modules=())
    elif spec.modules not in (None, names):
        raise InvalidInputError(
            f"modules: expected {list(names)}, as the files of {spec.model} say, or none, got "
            f"{list(spec.modules or ())}"
        )
    pooling = _pooling(spec, files)
    if files.static and (pooling != ("mean",) or spec.layer != -1):
        raise InvalidInputError(
            f"{spec.model} is a static embedding, which has no layers and only pooling mean"
        )
    prompts = {**files.prompts, **(spec.prompts or {})}
    resolved = spec.model_copy(
        update={
            "pooling": pooling[0] if len(pooling) == 1 else pooling,
            "normalize": files.normalize if spec.normalize is None else spec.normalize,
            "lower_case": files.lower_case if spec.lower_case is None else spec.lower_case,
            "prompt": _prompt(spec, prompts, files.default_prompt_name),
            "prompt_name": spec.prompt_name
            or (files.default_prompt_name if spec.prompt is None else None),
            "prompts": prompts,
            "modules": tuple(module.name for module in files.modules),
        }
    )
    return resolve_dimensions(resolved, folder, files.model_folder), files


def _pooling(spec: TextEncoder, files: SentenceTransformersFiles) -> tuple[PoolingMode, ...]:
    """The pooling modes in force."""
    if spec.pooling is not None:
        return pooling_modes(spec.pooling)
    if files.pooling:
        return files.pooling
    if files.static or not (files.model_folder / "config.json").is_file():
        return ("mean",)
    check_folder(spec.model, files.model_folder)
    config = read_config(files.model_folder)
    check_projection(spec.model, config)
    return ("projection",) if has_projection(config, "text") else ("mean",)


def _transformer_alone(name: str, folder: Path) -> SentenceTransformersFiles:
    """The transformer of a folder, without the modules beside it."""
    if (folder / "config.json").is_file() and not is_static(folder):
        return read_transformer(name, folder)
    return read_files(name, folder)


def pin_text_encoder(spec: TextEncoder, folder: Path) -> TextEncoder:
    """The declaration completed by the model's files, its maximum length included.

    Raises:
        InvalidInputError: If the declaration does not fit the model.
        JobFailedError: If the files cannot be followed.
    """
    resolved, files = resolve_spec(spec, folder)
    if files.static or resolved.max_length is not None:
        return resolved
    check_folder(spec.model, files.model_folder)
    tokenizer = load_tokenizer(spec.model, files.model_folder)
    config = read_config(files.model_folder)
    with release_noted(files.model_folder), torch.device("meta"):
        if resolved.pooling == "projection":
            model = tower_class(spec.model, config, "text")(config)
        else:
            model = AutoModel.from_config(
                config, attn_implementation="eager", trust_remote_code=False
            )
    _, default = length_limits(tokenizer, position_limit(model), files.max_length)
    return resolved.model_copy(update={"max_length": default})


def length_limits(tokenizer: Any, positions: int | None, own: int | None) -> tuple[int, int]:
    """The maximum number of tokens of a model, and its default.

    Args:
        tokenizer: Its tokenizer.
        positions: Number of tokens that the model has positions for; None if it has no limit.
        own: The maximum length that its sentence-transformers files name.
    """
    limits = [int(tokenizer.model_max_length), positions]
    usable = [limit for limit in limits if limit and 0 < limit < UNLIMITED_LENGTH]
    maximum = min(usable, default=own or DEFAULT_LENGTH)
    if own and own > maximum:
        # The tokenizer's limit gives way to that of the sentence-transformers files.
        maximum = min(own, positions or own)
    return maximum, min(maximum, own or maximum)


def position_limit(model: Any) -> int | None:
    """The number of tokens that a model has positions for; None if it has no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            # RoBERTa and its kin count positions from the one after that of padding.
            return min(limit, int(getattr(module, "num_embeddings", limit))) - int(padding) - 1
    return limit


def lower_case_first(tokenizer: Any) -> bool:
    """Let a tokenizer convert texts to lower case before everything else, as its library does.

    Returns:
        False if it is one that cannot, as it is not backed by the tokenizers library.
    """
    is_backend = isinstance(tokenizer, Tokenizer)
    backend = tokenizer if is_backend else getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    normalizer = backend.normalizer
    backend.normalizer = Normalizers([Lowercase(), *([normalizer] if normalizer else [])])
    return True


def prompt_tokens(tokenizer: Any, prompt: str) -> int:
    """Number of a text's first tokens that are its prompt's, special tokens before it included."""
    if not prompt:
        return 0
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    return len(ids) - (1 if ids and ids[-1] in tokenizer.all_special_ids else 0)


def pooling_modes(pooling: PoolingMode | tuple[PoolingMode, ...]) -> tuple[PoolingMode, ...]:
    """The modes of a pooling, whose results are concatenated."""
    return (pooling,) if isinstance(pooling, str) else tuple(pooling)


def _prompt(spec: TextEncoder, prompts: Mapping[str, str], default: str | None) -> str:
    """The prompt in force; empty if there is none."""
    if spec.prompt_name is None:
        return spec.prompt if spec.prompt is not None else prompts.get(default or "", "")
    named = prompts.get(spec.prompt_name)
    if named is None:
        raise InvalidInputError(
            f"prompt_name: expected one of {', '.join(prompts) or 'none'}, the prompts of "
            f"{spec.model}, got {spec.prompt_name!r}"
        )
    if spec.prompt not in (None, named):
        raise InvalidInputError(
            f"prompt: {spec.model} has another prompt of the name {spec.prompt_name}; send one of "
            "the two"
        )
    return named
