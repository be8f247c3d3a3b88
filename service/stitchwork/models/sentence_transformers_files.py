"""What the files of a sentence-transformers folder say about how its model embeds texts.

Each module, option and mode is either followed or refused by name; none is ignored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from stitchwork.errors import ErrorCode, JobFailedError
from stitchwork.resources import Modality, PoolingMode

MODULES_FILE: Final = "modules.json"
PACKAGE: Final = "sentence_transformers."
TRANSFORMERS: Final = ("Transformer", "CLIPModel")
"""Modules that hold a transformers model."""
SUPPORTED_MODULES: Final = (
    *(*TRANSFORMERS, "StaticEmbedding", "Pooling"),
    *("Dense", "LayerNorm", "Normalize", "Dropout"),
)
EMBEDDING: Final = "sentence_embedding"
POOLING_MODES: Final[Mapping[str, PoolingMode]] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weightedmean",
    "lasttoken": "last",
}
PROJECTION_METHODS: Final[Mapping[str, tuple[str, str]]] = {
    "text": ("get_text_features", "pooler_output"),
    "image": ("get_image_features", "pooler_output"),
}
"""The method of a model that projects an input to its embedding, and the field of its output."""
MODE_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The modes as releases before 5 write them, in the order in which they are concatenated."""
TRANSFORMER_FILES: Final = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


@dataclass(frozen=True, slots=True)
class ModuleFiles:
    """A module between the pooling and the embedding.

    Attributes:
        name: Name of its class: `Dense`, `LayerNorm` or `Normalize`.
        folder: The folder of its files.
        config: Its options.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SentenceTransformersFiles:
    """How a model embeds texts; the defaults are those of a plain transformers folder.

    Attributes:
        model_folder: The folder of the transformer, or of a static embedding.
        static: Whether the model is a static embedding: a mean of one row for each token.
        pooling: Pooling modes, whose results are concatenated; empty if the files name none.
        include_prompt: Whether the tokens of a prompt are pooled.
        modules: What follows the pooling, without a final `Normalize`.
        normalize: Whether embeddings are scaled to unit length at the end.
        max_length: Maximum tokens of a text.
        lower_case: Whether texts are converted to lower case.
        prompts: Prompts by name.
        default_prompt_name: Name of the prompt that is used if none is named.
    """

    model_folder: Path
    static: bool = False
    pooling: tuple[PoolingMode, ...] = ()
    include_prompt: bool = True
    modules: tuple[ModuleFiles, ...] = ()
    normalize: bool = False
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None


def read_files(name: str, folder: Path, modality: Modality = "text") -> SentenceTransformersFiles:
    """Read how a model embeds inputs of a modality.

    Args:
        name: Name of the model in errors.
        folder: The folder of its files; without `modules.json`, that of a plain transformers model.
        modality: The modality of the inputs.

    Raises:
        JobFailedError: If a file cannot be read, or requires what is not supported.
    """
    try:
        return _read(name, folder, modality)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise refusal(name, f"its sentence-transformers files cannot be read: {error}") from error


def is_static(folder: Path) -> bool:
    """Whether the model of a folder is a static embedding."""
    file = folder / MODULES_FILE
    entries = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return bool(entries) and str(entries[0]["type"]).endswith(".StaticEmbedding")


def read_transformer(
    name: str, folder: Path, modality: Modality = "text"
) -> SentenceTransformersFiles:
    """Read the options of a transformer whose folder has no other modules.

    Raises:
        JobFailedError: If an option is not supported.
    """
    max_length, lower_case, projects = _transformer_options(name, folder, modality)
    prompts, default_prompt_name = _prompts(name, folder)
    return SentenceTransformersFiles(
        folder,
        pooling=("projection",) if projects else (),
        max_length=max_length,
        lower_case=lower_case,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
    )


def refusal(name: str, reason: str) -> JobFailedError:
    """The error of a model that cannot be followed."""
    return JobFailedError(f"{name} cannot be loaded: {reason}", code=ErrorCode.LOAD_FAILED)


def _read(name: str, folder: Path, modality: Modality) -> SentenceTransformersFiles:
    if not (folder / MODULES_FILE).is_file():
        return read_transformer(name, folder, modality)
    entries = json.loads((folder / MODULES_FILE).read_text(encoding="utf-8"))
    modules = [_module(name, folder, entry) for entry in entries]
    names = [module.name for module in modules]
    if not modules or names[0] not in (*TRANSFORMERS, "StaticEmbedding"):
        raise refusal(
            name,
            "expected its first module to be Transformer, CLIPModel or StaticEmbedding, got "
            f"{names[0] if names else 'none'}",
        )
    first, *others = modules
    prompts, default_prompt_name = _prompts(name, folder)
    if first.name == "StaticEmbedding":
        if modality != "text":
            raise refusal(name, f"its module StaticEmbedding embeds no {modality}s")
        after, normalize = _after_pooling(name, others)
        return SentenceTransformersFiles(
            first.folder,
            static=True,
            modules=after,
            normalize=normalize,
            prompts=prompts,
            default_prompt_name=default_prompt_name,
        )
    max_length, lower_case, projects = _transformer_options(name, first.folder, modality)
    projects = projects or first.name == "CLIPModel"
    if not projects and (not others or others[0].name != "Pooling"):
        got = others[0].name if others else "none"
        raise refusal(name, f"expected Pooling after its module Transformer, got {got}")
    options = {} if projects else others.pop(0).config
    after, normalize = _after_pooling(name, others)
    return SentenceTransformersFiles(
        first.folder,
        pooling=("projection",) if projects else _pooling(name, options),
        include_prompt=bool(options.get("include_prompt", True)),
        modules=after,
        normalize=normalize,
        max_length=max_length,
        lower_case=lower_case,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
    )


def _module(name: str, folder: Path, entry: Mapping[str, str]) -> ModuleFiles:
    class_path, path = entry["type"], PurePosixPath(entry["path"])
    class_name = class_path.rsplit(".", 1)[-1]
    if not class_path.startswith(PACKAGE):
        raise refusal(name, f"its module {class_path} is code of its own, which is never run")
    if path.is_absolute() or ".." in path.parts:
        raise refusal(name, f"the files of its module {class_name} are outside of its folder")
    if class_name not in SUPPORTED_MODULES:
        raise refusal(name, f"its module {class_name} is not supported")
    file = folder / path / "config.json"
    known = class_name in (*TRANSFORMERS, "StaticEmbedding", "Normalize", "Dropout")
    # Normalize had no options before release 5, and a transformer's config is not the module's.
    if known and (class_name != "Normalize" or not path.parts or not file.is_file()):
        return ModuleFiles(class_name, folder / path, {})
    if not file.is_file():
        raise refusal(name, f"{path / 'config.json'} of its module {class_name} is missing")
    return ModuleFiles(class_name, folder / path, json.loads(file.read_text(encoding="utf-8")))


def _after_pooling(name: str, modules: list[ModuleFiles]) -> tuple[tuple[ModuleFiles, ...], bool]:
    """The modules after the pooling without a final Normalize, and whether there is one."""
    for module in modules:
        if module.name not in ("Dense", "LayerNorm", "Normalize", "Dropout"):
            raise refusal(name, f"its module {module.name} after the pooling is not supported")
        for option in ("module_input_name", "module_output_name"):
            if module.config.get(option) not in (None, EMBEDDING):
                raise refusal(
                    name,
                    f"{option} {module.config[option]!r} of its module {module.name} is not "
                    f"supported, only {EMBEDDING}",
                )
    # Dropout does nothing outside of training.
    remaining = [module for module in modules if module.name != "Dropout"]
    normalize = bool(remaining) and remaining[-1].name == "Normalize"
    return tuple(remaining[:-1] if normalize else remaining), normalize


def _pooling(name: str, config: Mapping[str, Any]) -> tuple[PoolingMode, ...]:
    stored = config.get("pooling_mode")
    if stored is None:
        stored = [mode for flag, mode in MODE_FLAGS.items() if config.get(flag)] or ["mean"]
    modes = [stored] if isinstance(stored, str) else list(stored)
    flags = [key for key in config if key.startswith("pooling_mode_") and config[key]]
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    unknown += [flag for flag in flags if flag not in MODE_FLAGS]
    if unknown:
        raise refusal(name, f"its pooling {', '.join(map(str, unknown))} is not supported")
    return tuple(POOLING_MODES[mode] for mode in modes)


def _transformer_options(
    name: str, folder: Path, modality: Modality
) -> tuple[int | None, bool, bool]:
    """The options of a transformer.

    Returns:
        The maximum length, whether texts are converted to lower case, and whether the model itself
        projects an input of the modality to its embedding.
    """
    file = next((folder / f for f in TRANSFORMER_FILES if (folder / f).is_file()), None)
    if file is None:
        return None, False, False
    options = json.loads(file.read_text(encoding="utf-8"))
    max_length = options.pop("max_seq_length", None)
    lower_case = bool(options.pop("do_lower_case", False))
    task = options.pop("transformer_task", "feature-extraction")
    output = options.pop("module_output_name", "token_embeddings")
    inputs = options.pop("modality_config", None) or {}
    if inputs and modality not in inputs:
        raise refusal(name, f"{file.name} names no {modality}s among its inputs")
    projects = output == EMBEDDING
    forward = ("forward", "last_hidden_state")
    method, field_name = PROJECTION_METHODS[modality] if projects else forward
    own = inputs.get(modality, {"method": method, "method_output_name": field_name})
    for option, value, values in (
        ("transformer_task", task, ("feature-extraction",)),
        ("module_output_name", output, ("token_embeddings", EMBEDDING)),
        ("method", own.get("method"), (method,)),
        # Releases of transformers before 5 return the rows themselves.
        ("method_output_name", own.get("method_output_name"), (field_name, None)[: 1 + projects]),
    ):
        if value not in values:
            raise refusal(name, f"{option} {value!r} of {file.name} is not supported")
    others = [option for option, value in options.items() if value not in (None, {}, [], False)]
    if others:
        raise refusal(name, f"{', '.join(others)} of {file.name} is not supported")
    return max_length, lower_case, projects


def _prompts(name: str, folder: Path) -> tuple[dict[str, str], str | None]:
    """The prompts by name, and the name of the default one."""
    file = folder / "config_sentence_transformers.json"
    if not file.is_file():
        return {}, None
    config = json.loads(file.read_text(encoding="utf-8"))
    kind = config.get("model_type") or "SentenceTransformer"
    if kind != "SentenceTransformer":
        raise refusal(name, f"it is a {kind}, which does not embed a text as one vector")
    prompts = {str(key): str(value or "") for key, value in (config.get("prompts") or {}).items()}
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise refusal(name, f"its default prompt {default!r} is not among its prompts")
    return prompts, default
