"""Downloads from the model hub: which models are allowed, and which of their files."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError

FILES: Final = ("*.json", "*.txt", "*.model", "*.safetensors")
"""Files that are downloaded: never code or pickles, so that neither can be run."""
IGNORED: Final = ("[!0-9]*/*", "*/*/*")
"""Folders that are not downloaded: all but those of a model's modules, such as `1_Pooling`."""
COMMIT: Final = re.compile(r"[0-9a-f]{40}")


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
        if not any(fnmatchcase(model, pattern) for pattern in self._patterns):
            allowed = ", ".join(self._patterns) or "none"
            raise InvalidInputError(
                f"hub model {model} is not allowed; hub_models allows: {allowed}",
                code=ErrorCode.MODEL_NOT_ALLOWED,
            )
        try:
            folder = snapshot_download(
                model,
                revision=revision,
                allow_patterns=list(FILES),
                ignore_patterns=list(IGNORED),
                local_files_only=self._offline,
            )
        except HFValidationError as error:
            raise InvalidInputError(
                f"{model} is neither a local folder nor the id of a hub model"
            ) from error
        except OSError as error:
            reason = (
                "this worker is offline and has no copy of it"
                if self._offline
                else f"the download failed ({type(error).__name__})"
            )
            suffix = f" at {revision}" if revision else ""
            raise JobFailedError(
                f"{model}{suffix} cannot be loaded: {reason}", code=ErrorCode.LOAD_FAILED
            ) from error
        return Path(folder)


def is_pinned(revision: str | None) -> bool:
    """Whether a revision is a commit hash, which always names the same files."""
    return revision is not None and COMMIT.fullmatch(revision) is not None
