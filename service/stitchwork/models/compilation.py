"""Compiles the forward passes of loaded encoders beside the work, and puts them in place."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from stitchwork.models.compiled_files import CompiledFiles
from stitchwork.models.memory import release_memory
from stitchwork.models.openvino_backend import ForwardPass, compile_forward

log = logging.getLogger(__name__)


class CompilablePass:
    """A forward pass by torch, which a compiled one replaces as soon as there is one.

    Args:
        module: The model, on a CPU, in evaluation mode. It is freed when it is replaced.
        name: Name of the model in the log.
        samples: Inputs to trace and to compare, see `compile_forward`.
        dtype: The data type that the compiled pass computes in.
        max_tokens: Maximum length of a text; 0 for images.

    Attributes:
        current: What runs now.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        name: str,
        samples: Sequence[Sequence[torch.Tensor]],
        dtype: torch.dtype,
        max_tokens: int = 0,
    ) -> None:
        self.current: ForwardPass = module
        self._module: torch.nn.Module | None = module
        self._samples = samples
        self._name = name
        self._dtype = dtype
        self._max_tokens = max_tokens

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Maps inputs of n rows to (n, d)."""
        return self.current(*inputs)

    def compile(self, file: Path | None = None) -> None:
        """Compile the pass, or read it from a file; if that fails, the pass stays torch's.

        Args:
            file: File of the compiled model: read if it exists, else written.
        """
        if self._module is None:
            return
        self.current = compile_forward(
            self._module,
            self._name,
            self._samples,
            dtype=self._dtype,
            max_tokens=self._max_tokens,
            file=file,
        )
        self._module, self._samples = None, ()


class BackgroundCompiler:
    """Compiles one model after another in a thread of its own.

    Args:
        files: Keeps the compiled models.
    """

    def __init__(self, files: CompiledFiles) -> None:
        self._files = files
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="compile")

    def submit(
        self, forward: CompilablePass, encoder: str, files_digest: str, then: Callable[[], None]
    ) -> "Future[None]":
        """Compile a forward pass after those that were submitted before.

        Args:
            forward: The forward pass.
            encoder: Key of its encoder.
            files_digest: Digest of the encoder's files.
            then: Called once it is in place.

        Returns:
            Done after that; it never has an error.
        """
        file = self._files.file(encoder, files_digest)

        def run() -> None:
            try:
                forward.compile(file)
                self._files.record_use(file)
                then()
                # The module that was replaced.
                release_memory(torch.device("cpu"))
            except Exception:
                # The model goes on as it is.
                log.exception("model compilation failed")

        return self._executor.submit(run)

    def close(self) -> None:
        """Begin nothing more, and wait until the current work is done."""
        self._executor.shutdown(cancel_futures=True)
