"""A model's forward pass on a CPU, compiled by OpenVINO; only this module imports it."""

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

log = logging.getLogger(__name__)

PACKAGE: Final = "openvino"

ForwardPass = Callable[..., torch.Tensor]
"""Maps inputs of n rows to (n, d) float32."""

MAX_DIFFERENCES: Final = {torch.float32: 1e-4, torch.bfloat16: 1.4e-2, torch.float16: 1.4e-2}
"""Largest difference of a row from torch's in float32, relative to its norm, by the data type of
the compiled pass. In float32 rounding causes 1e-6; the others are at a cosine of .9999."""
BUCKET_STEPS: Final = ((32, 4), (64, 8), (128, 16), (256, 32), (1 << 30, 64))
"""Texts of up to so many tokens are padded to a multiple of the second number."""
TRACING: Final = threading.Lock()
"""Held while a model is traced, and while one is loaded. Classes of two traces at once would be
mixed up, and Python's parser, which both use, may fail in two threads at once (before 3.12)."""
TRACING_WARNINGS: Final = "`(torch.jit.trace|is_gradient_checkpointing)"
"""What tracing says of itself, and of the attributes that it reads."""
PRECISIONS: Final = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
"""Data types by their names in OpenVINO."""


@torch.no_grad()
def compile_forward(
    module: torch.nn.Module,
    name: str,
    samples: Sequence[Sequence[torch.Tensor]],
    *,
    dtype: torch.dtype = torch.float32,
    max_tokens: int = 0,
    file: Path | None = None,
    package: str = PACKAGE,
) -> ForwardPass:
    """Compile the forward pass of a model; the model itself if that fails or changes its results.

    Args:
        module: The model, on a CPU, in evaluation mode. It is not referenced by the compiled pass.
        name: Name of the model in the log.
        samples: Inputs. The first is traced; the others differ from it in the number of rows and
            in length, up to the longest that is allowed, and show whether tracing took a size
            for a constant.
        dtype: The data type that the compiled pass computes in.
        max_tokens: Maximum length of a text; no text is padded to more. 0 for images.
        file: File of the compiled model: read if it exists, else written.
        package: Name of the compiler's package; without it the model itself runs.
    """
    if find_spec(package) is None:
        return module
    began = time.perf_counter()
    expected = [module(*sample) for sample in samples]

    def check(compiled: "CompiledPass") -> float:
        rows = (compiled(*sample) for sample in samples)
        difference = max(map(max_relative_difference, expected, rows))
        if not difference <= MAX_DIFFERENCES[dtype]:
            raise ValueError(f"results differ by {difference:.2g}")
        return difference

    compiled, is_cached = None, file is not None and file.is_file()
    if file is not None and is_cached:
        try:
            compiled = CompiledPass.read(file, dtype, max_tokens)
            difference = check(compiled)
        except Exception as error:  # noqa: BLE001 whatever is in the file, it can be written anew
            compiled, is_cached = None, False
            ignored = {"model": name, "file": file.name, "reason": _reason(error)}
            log.warning("compiled model ignored", extra=ignored)
    if compiled is None:
        try:
            compiled = CompiledPass.compile(trace(module, samples[0]), dtype, max_tokens)
            difference = check(compiled)
        except Exception as error:  # noqa: BLE001 whatever it raises, torch can run the model
            failure = {"model": name, "reason": _reason(error)}
            log.warning("model compilation failed", extra=failure)
            return module
    seconds = round(time.perf_counter() - began, 2)
    extra = {"model": name, "seconds": seconds, "difference": difference, "cached": is_cached}
    log.info("model compiled", extra=extra)
    if file is not None and not is_cached:
        compiled.write(file)
    return compiled


def _reason(error: Exception) -> str:
    """The name of an error of the compiler, whose messages are long; the words of our own."""
    return str(error) if isinstance(error, ValueError) else type(error).__name__


def max_relative_difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """The largest distance between two rows (n, d), relative to the norm of the expected one."""
    norms = expected.norm(dim=1).clamp_min(1e-12)
    return float(((expected - actual).norm(dim=1) / norms).max())


def trace(module: torch.nn.Module, sample: Sequence[torch.Tensor]) -> Any:
    """An OpenVINO model of a torch module, traced with sample inputs.

    The decoder and the loading by framework are internal to OpenVINO: `openvino.convert_model`
    would do the same, but silences all loggers of the process while it runs.
    """
    _block_telemetry()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Tracing warns of branches on a size; the other samples show whether they matter. The filters
    # stay: `catch_warnings` would change those of other threads in the middle of their work.
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", TRACING_WARNINGS, FutureWarning)
    frontend = FrontEndManager().load_by_framework("pytorch")
    with TRACING:
        try:
            decoder = TorchScriptPythonDecoder(
                module, example_input=tuple(sample), trace_kwargs={"check_trace": False}
            )
            model = frontend.convert(frontend.load(decoder))
            del decoder
        finally:
            # Also of a trace that failed: a later one could not define its classes again.
            clear_traced_classes()
    return model


def clear_traced_classes() -> None:
    """Drop the classes that torch registered while tracing.

    torch keeps them, megabytes for each model, until the process ends, and offers only a private
    function to release them.
    """
    torch._C._jit_clear_class_registry()


def bucket(length: int, max_tokens: int) -> int:
    """The length that texts are padded to, so that few lengths occur.

    The compiler keeps a hundred kilobytes or more for each shape that occurs: with all batches of
    up to 32 rows of up to 32 tokens MiniLM grows by 24 MB, and without padding by 124 MB. Padding
    costs such batches 5% of their time on average, and 32 rows of 25 tokens 12%.

    Args:
        length: Tokens of the longest text.
        max_tokens: Maximum length of a text.
    """
    step = next(step for limit, step in BUCKET_STEPS if length <= limit)
    return min(length + -length % step, max(length, max_tokens))


class CompiledPass:
    """A compiled model; calls from several threads run one after another.

    Args:
        compiled: The compiled model.
        dtype: The data type that it is expected to compute in.
        max_tokens: Maximum length of a text; 0 for images.

    Raises:
        ValueError: If it computes in another data type, since the CPU lacks this one.
    """

    def __init__(self, compiled: Any, dtype: torch.dtype, max_tokens: int) -> None:
        actual = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if actual != PRECISIONS[dtype]:
            raise ValueError(f"the compiler computes in {actual} on this CPU")
        import openvino

        self._tensor_class = openvino.Tensor
        self._compiled = compiled
        self._request: Any = compiled.create_infer_request()
        self._max_tokens = max_tokens
        self._guard = threading.Lock()

    @classmethod
    def compile(cls, model: Any, dtype: torch.dtype, max_tokens: int) -> "CompiledPass":
        """Compile an OpenVINO model."""
        return cls(_core().compile_model(model, "CPU", _options(dtype)), dtype, max_tokens)

    @classmethod
    def read(cls, file: Path, dtype: torch.dtype, max_tokens: int) -> "CompiledPass":
        """Read a model that `write` wrote on a CPU of this kind, with this release of OpenVINO."""
        compiled = _core().import_model(file.read_bytes(), "CPU", _options(dtype))
        return cls(compiled, dtype, max_tokens)

    def write(self, file: Path) -> None:
        """Write the compiled model to a file, all of it or nothing."""
        part = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            part.write_bytes(self._compiled.export_model().getbuffer())
            part.replace(file)
        except OSError as error:
            part.unlink(missing_ok=True)
            extra = {"file": file.name, "reason": error.strerror or type(error).__name__}
            log.warning("compiled model not saved", extra=extra)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Maps inputs of n rows to (n, d) float32."""
        if self._max_tokens:
            length = inputs[0].shape[1]
            padding = bucket(length, self._max_tokens) - length
            inputs = tuple(torch.nn.functional.pad(tensor, (0, padding)) for tensor in inputs)
        tensors = [
            self._tensor_class(tensor.contiguous().numpy(), shared_memory=True) for tensor in inputs
        ]
        with self._guard:
            for i, tensor in enumerate(tensors):
                self._request.set_input_tensor(i, tensor)
            # What `infer` does around this costs as much as a small pass.
            self._request.start_async()
            self._request.wait()
            return torch.from_numpy(self._request.get_output_tensor(0).data.copy())


def _core() -> Any:
    _block_telemetry()
    import openvino

    return openvino.Core()


def _block_telemetry() -> None:
    """OpenVINO reports its use over the network unless this package is missing."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def _options(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # The process that starts a worker decides which cores it uses.
        "ENABLE_CPU_PINNING": False,
    }
