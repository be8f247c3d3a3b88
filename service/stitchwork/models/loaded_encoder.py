"""An encoder in memory, with what a worker knows of it."""

from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from stitchwork.models.batching import Batcher
from stitchwork.models.encoder import Encoder


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LoadedEncoder:
    """An encoder in memory.

    Attributes:
        encoder: The encoder.
        batcher: Runs it in batches.
        seconds: Time that loading took.
        files_digest: Digest of the files that it was loaded from.
        changes: How these files differ from the first ones that this worker loaded it from.
        is_proven: Whether it was compared with its own library when it was loaded.
        label_names: Names of the classes of the model's own classifier, if its files have them.
        libraries: Versions of the libraries that compute its rows, by name.
        compilation: Done once it is compiled, which may fail; None if it is not to be compiled.
    """

    encoder: Encoder
    batcher: Batcher
    seconds: float
    files_digest: str = ""
    changes: str = ""
    is_proven: bool = False
    label_names: tuple[str, ...] = ()
    libraries: Mapping[str, str] = field(default_factory=dict)
    compilation: "Future[None] | None" = None

    def wait_until_compiled(self) -> None:
        """Wait until the model is compiled, or cannot be; until then it runs by torch."""
        if self.compilation is not None:
            wait([self.compilation])
