"""The files of a model: in an allowed local folder, or in the cache of the hub's library."""

from collections.abc import Sequence
from pathlib import Path

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.models.hub import Hub, is_pinned
from stitchwork.resources import EncoderSpec, ImageEncoder


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
        name = _local_path(spec)
        if name is not None:
            return self._check_allowed(name)
        folder = self._hub.folder(_hub_id(spec), spec.revision)
        return folder / "model.safetensors" if isinstance(spec, ImageEncoder) else folder

    def pin(self, spec: EncoderSpec) -> EncoderSpec:
        """The spec with its revision resolved to a commit, and the preprocessing of images.

        Raises:
            InvalidInputError: If the spec is invalid, or names a model that is not allowed.
            JobFailedError: If the hub cannot be reached.
        """
        if not _local_path(spec) and not is_pinned(spec.revision):
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


def _local_path(spec: EncoderSpec) -> str | None:
    """The local path that a spec names; None if it names a model of the hub."""
    if isinstance(spec, ImageEncoder):
        return spec.weights
    model = spec.model
    is_path = model.startswith(("/", ".", "~")) or "\\" in model or ".." in model
    return model if is_path or Path(model).exists() or model.count("/") > 1 else None


def _hub_id(spec: EncoderSpec) -> str:
    if not isinstance(spec, ImageEncoder):
        return spec.model
    from stitchwork.models.timm_config import timm_hub_id

    return timm_hub_id(spec)
