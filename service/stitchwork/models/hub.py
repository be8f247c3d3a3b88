"""Downloads from the model hub: which models are allowed, and which of their files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from huggingface_hub import list_repo_files, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError
from stitchwork.resources import check_hub_model

FILES: Final = (
    *("*.json", "*.txt", "*.model", "*.spm", "*.tiktoken", "*.safetensors"),
    # The model card names the dimensions that embeddings may be cut to.
    "README.md",
)
"""Files that are downloaded: never code or pickles, so that neither can be run."""
IGNORED: Final = ("[!0-9]*/*", "*/*/*")
"""Folders that are not downloaded: all but those of a model's modules, such as `1_Pooling`."""
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
WEIGHTS: Final = ".safetensors"
OTHER_WEIGHTS: Final = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
"""Ends of the names of weights that are not read: pickles, and formats of other libraries."""
TRANSPORT_ERRORS: Final[tuple[Any, ...]] = (OSError, *HfHubHTTPError.__bases__)
"""What the hub's library raises, the errors of its HTTP client among them."""


class Hub:
    """Downloads models, each at one commit, into the cache of the hub's library.

    Args:
        patterns: Patterns of the allowed models, such as `timm/*`.
        offline: Use only the cache, and never connect.
    """

    def __init__(self, patterns: Sequence[str], *, offline: bool) -> None:
        self._patterns = tuple(patterns)
        self._offline = offline

    def folder(self, model: str, revision: str | None) -> Path:
        """The folder of a model's files, named after their commit.

        Args:
            model: Id of the model on the hub.
            revision: Commit, tag or branch; None is `main`.

        Raises:
            InvalidInputError: If no pattern allows the model, or its id is malformed.
            JobFailedError: If the model is not in the cache and cannot be downloaded.
        """
        check_hub_model(model, self._patterns)
        try:
            folder = Path(
                snapshot_download(
                    model,
                    revision=revision,
                    allow_patterns=list(FILES),
                    ignore_patterns=list(IGNORED),
                    local_files_only=self._offline,
                )
            )
            if not any(folder.rglob(f"*{WEIGHTS}")):
                raise self._no_weights(model, folder)
        except HFValidationError as error:
            raise InvalidInputError(
                f"{model} is neither a local folder nor the id of a hub model"
            ) from error
        except TRANSPORT_ERRORS as error:
            suffix = f" at {revision}" if revision else ""
            raise _load_failed(f"{model}{suffix}", self._reason(error, revision)) from error
        return folder

    def _no_weights(self, model: str, folder: Path) -> JobFailedError:
        """The error of a model without safetensors."""
        names = [] if self._offline else list_repo_files(model, revision=folder.name)
        others = [name for name in names if name.endswith(OTHER_WEIGHTS)]
        listed = f", it has {', '.join(others)}" if others else ""
        return _load_failed(
            model,
            f"expected weights in {WEIGHTS} files{listed}. Pickles are never read, since they can "
            "run code: name a revision with safetensors, or convert them where you trust them",
        )

    def _reason(self, error: Exception, revision: str | None) -> str:
        """Why a model cannot be downloaded."""
        if self._offline:
            return "this worker is offline and has no copy of it"
        if isinstance(error, GatedRepoError):
            return (
                "its publisher restricts access to it (gated): accept its conditions on the hub, "
                "and set HF_TOKEN on the workers to the token of an account that has access"
            )
        if isinstance(error, RepositoryNotFoundError):
            return (
                "the hub has no such model, or it is private: for a private one, set HF_TOKEN on "
                "the workers to the token of an account that has access"
            )
        if isinstance(error, RevisionNotFoundError):
            return f"the hub has no revision {revision} of it"
        if isinstance(error, LocalEntryNotFoundError):
            cause = error.__cause__ or error
            return f"the hub cannot be reached ({_describe(cause)}), and the cache has no copy"
        return f"the download failed ({_describe(error)})"


def _describe(error: BaseException) -> str:
    """The status with which the hub refused, else the name of the error."""
    if isinstance(error, HfHubHTTPError):
        return f"status {error.response.status_code}"
    return type(error).__name__


def _load_failed(name: str, reason: str) -> JobFailedError:
    return JobFailedError(f"{name} cannot be loaded: {reason}", code=ErrorCode.LOAD_FAILED)


def is_pinned(revision: str | None) -> bool:
    """Whether a revision is a commit hash, which always names the same files."""
    return revision is not None and COMMIT.fullmatch(revision) is not None
