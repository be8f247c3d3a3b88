"""What became of an attempt to read a model, besides a loaded encoder."""

from dataclasses import dataclass

from stitchwork.errors import StitchworkError
from stitchwork.models.file_snapshots import FileSnapshot
from stitchwork.models.pretrained_head import PretrainedHead


@dataclass(frozen=True, slots=True)
class ExtractedClassifier:
    """The classifier of a pretrained model.

    Attributes:
        head: The classifier.
        files_digest: Digest of the files that it was read from.
    """

    head: PretrainedHead
    files_digest: str


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why an encoder could not be loaded.

    Attributes:
        error: The error.
        snapshot: The files that could not be loaded; None if they cannot be read.
    """

    error: StitchworkError
    snapshot: FileSnapshot | None
