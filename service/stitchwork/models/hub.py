"""The model hub: which of its models are taken, and what of them."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError

FILES: Final = ("*.json", "*.txt", "*.model", "*.safetensors")
"""Never code, never pickles: what is not there cannot be run."""
COMMIT: Final = re.compile(r"[0-9a-f]{40}")


class Hub:
    """Fetches whole models, at one commit, into the hub library's own cache.

    Args:
        patterns: Models that may be asked for, such as `timm/*`.
        offline: Only use what the cache holds; never connect.
    """

    def __init__(self, patterns: Sequence[str], *, offline: bool) -> None:
        self._patterns = tuple(patterns)
        self._offline = offline

    def folder(self, model: str, revision: str | None) -> Path:
        """The folder of a model's files; its name is the commit that they are of.

        Args:
            model: Hub id.
            revision: Commit, tag or branch; None is `main`.

        Raises:
            InvalidInputError: If no pattern allows the model, or the hub has none of this name.
            JobFailedError: If it is not in the cache and the hub cannot be asked.
        """
        if not any(fnmatchcase(model, pattern) for pattern in self._patterns):
            allowed = ", ".join(self._patterns) or "none"
            raise InvalidInputError(
                f"the hub's model {model} is not among those that hub_models allows: {allowed}",
                code=ErrorCode.MODEL_NOT_ALLOWED,
            )
        try:
            found = snapshot_download(
                model,
                revision=revision,
                allow_patterns=list(FILES),
                ignore_patterns=["*/*"],
                local_files_only=self._offline,
            )
        except HFValidationError as error:
            raise InvalidInputError(f"{model} is neither a local folder nor a hub id") from error
        except OSError as error:
            why = (
                "this worker is offline and has no copy of it"
                if self._offline
                else f"the hub did not give it ({type(error).__name__})"
            )
            at = f" at {revision}" if revision else ""
            raise JobFailedError(
                f"{model}{at} cannot be loaded: {why}", code=ErrorCode.LOAD_FAILED
            ) from error
        return Path(found)


def is_pinned(revision: str | None) -> bool:
    """Whether a revision is a commit, which never means anything else."""
    return revision is not None and COMMIT.fullmatch(revision) is not None
