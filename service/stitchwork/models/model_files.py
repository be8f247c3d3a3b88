"""The files of a model: in an allowed local folder, or in the cache of the hub's library."""

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from stitchwork.errors import ErrorCode, InvalidInputError, StitchworkError
from stitchwork.models.file_snapshots import FileList, FileSnapshot, take_snapshot
from stitchwork.models.hub import Hub, is_pinned
from stitchwork.resources import EncoderSpec, ImageEncoder, local_path, timm_hub_address

TRANSFORMERS_FILES: Final = (
    *("*.safetensors", "*.json", "*.txt", "*.model"),
    *("*.tiktoken", "*.tokenizer", "*.spm", "*.vocab", "*.bpe", "*.codes"),
)
"""Files of a transformers model that are read: weights, configurations, and parts of tokenizers."""


class ModelFiles:
    """Finds the files that specs name.

    Args:
        roots: Folders that local files may be read from.
        hub: The model hub.
    """

    def __init__(self, roots: Sequence[Path], hub: Hub) -> None:
        self._roots = tuple(root.expanduser().resolve() for root in roots)
        self._hub = hub

    def path(self, spec: EncoderSpec) -> Path:
        """The folder of a transformers model, or the weights of a timm model: a file or a folder.

        Raises:
            InvalidInputError: If the spec names a file outside the roots, or a model that is not
                allowed.
            JobFailedError: If the model is on the hub and cannot be downloaded.
        """
        name = local_path(spec)
        if name is not None:
            return self._check_allowed(name)
        folder = self._hub.folder(_hub_id(spec), spec.revision)
        is_own = isinstance(spec, ImageEncoder) and timm_hub_address(spec) is None
        return folder / "model.safetensors" if is_own else folder

    def snapshot(self, spec: EncoderSpec, previous: FileSnapshot | None = None) -> FileSnapshot:
        """The content of the files that a spec names.

        Args:
            spec: The encoder.
            previous: An earlier snapshot; only files that have changed since are read, and nothing
                is downloaded.

        Raises:
            InvalidInputError: As `path`.
            JobFailedError: As `path`, or if the files change whenever they are read.
            OSError: If a file cannot be read.
        """
        name = local_path(spec)
        if name is not None:
            # Not resolved, so that a link that leads elsewhere is followed anew.
            root = Path(name).expanduser()
        else:
            root = previous.listed.root if previous else self.path(spec)

        def list_files() -> FileList:
            if name is not None:
                self._check_allowed(name)
            return _timm_files(root) if isinstance(spec, ImageEncoder) else _folder_files(root)

        return take_snapshot(list_files, spec.model, previous)

    def pin(self, spec: EncoderSpec) -> EncoderSpec:
        """The spec with its revision resolved to a commit, and the preprocessing of images.

        Raises:
            InvalidInputError: If the spec is invalid, or names a model that is not allowed.
            JobFailedError: If the hub cannot be reached.
        """
        if not local_path(spec) and not is_pinned(spec.revision):
            folder = self._hub.folder(_hub_id(spec), spec.revision)
            spec = spec.model_copy(update={"revision": folder.name})
        if not isinstance(spec, ImageEncoder):
            return spec
        from stitchwork.models.timm_config import resolve_preprocessing

        return resolve_preprocessing(spec, self.path(spec))

    def _check_allowed(self, name: str) -> Path:
        """Refuse local files outside the roots, without revealing whether they exist."""
        path = Path(name).expanduser().resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise InvalidInputError(
                "local models must be in a folder that the worker's model_roots "
                "(STITCHWORK_MODEL_ROOTS) lists",
                code=ErrorCode.PATH_NOT_ALLOWED,
            )
        return path


def _folder_files(root: Path) -> FileList:
    """The files of a transformers model's folder and of the folders of its modules."""
    folders = [root, *_module_folders(root)]
    files = {
        path.relative_to(root).as_posix(): path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if any(fnmatchcase(path.name, pattern) for pattern in TRANSFORMERS_FILES) and path.is_file()
    }
    return FileList(root, files, tuple(folders))


def _module_folders(root: Path) -> list[Path]:
    """The folders that a sentence-transformers folder names for its modules."""
    try:
        entries = json.loads((root / "modules.json").read_bytes())
        paths = {PurePosixPath(entry["path"]) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError):
        return []  # There is none, or the loader says what is wrong with it.
    inner = sorted(p for p in paths if p.parts and not p.is_absolute() and ".." not in p.parts)
    return [root / path for path in inner]


def _timm_files(root: Path) -> FileList:
    """The weights of a timm model and the config.json beside them."""
    from stitchwork.models.timm_config import CONFIG_FILE
    from stitchwork.models.timm_weights import find_weights

    watched = [root]
    try:
        weights = find_weights(root)
    except StitchworkError:
        return FileList(root, {}, tuple(watched))  # The loader says what is wrong with it.
    config = weights.parent / CONFIG_FILE
    files = {path.name: path for path in (weights, config) if path.is_file()}
    if config.name not in files:
        watched.append(config)
    return FileList(root, files, tuple(watched))


def _hub_id(spec: EncoderSpec) -> str:
    if not isinstance(spec, ImageEncoder):
        return spec.model
    if (address := timm_hub_address(spec)) is not None:
        return address
    from stitchwork.models.timm_config import timm_hub_id

    return timm_hub_id(spec)
