"""A model's forward pass on a CPU, compiled by OpenVINO; only this module imports it."""

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final

import torch

log = logging.getLogger(__name__)

ForwardPass = Callable[..., torch.Tensor]
"""Maps inputs of n rows to (n, d) float32."""

MAX_DIFFERENCE: Final = 1e-4
"""Largest difference of a row from torch's, relative to its norm; rounding causes 1e-6."""


@torch.no_grad()
def compile_forward(
    module: torch.nn.Module,
    name: str,
    samples: Sequence[Sequence[torch.Tensor]],
    *,
    package: str = "openvino",
) -> ForwardPass:
    """Compile the forward pass of a model; the model itself if that fails or changes its results.

    Args:
        module: The model, on a CPU, in evaluation mode. It is not referenced by the compiled pass.
        name: Name of the model in the log.
        samples: Inputs. The first is traced; the others differ from it in the number of rows and
            in length, up to the longest that is allowed, and show whether tracing took a size
            for a constant.
        package: Name of the compiler's package; without it the model itself runs.
    """
    if find_spec(package) is None:
        return module
    began = time.perf_counter()
    try:
        compiled = _CompiledPass(module, samples[0])
        difference = max(
            max_relative_difference(module(*sample), compiled(*sample)) for sample in samples
        )
    except Exception as error:  # noqa: BLE001 whatever the compiler raises, torch can run the model
        extra = {"model": name, "reason": type(error).__name__}
        log.warning("model compilation failed", extra=extra)
        return module
    if not difference <= MAX_DIFFERENCE:
        extra = {"model": name, "reason": f"results differ by {difference:.2g}"}
        log.warning("model compilation failed", extra=extra)
        return module
    seconds = round(time.perf_counter() - began, 2)
    log.info("model compiled", extra={"model": name, "seconds": seconds, "difference": difference})
    return compiled


def max_relative_difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """The largest distance between two rows (n, d), relative to the norm of the expected one."""
    norms = expected.norm(dim=1).clamp_min(1e-12)
    return float(((expected - actual).norm(dim=1) / norms).max())


def trace(module: torch.nn.Module, sample: Sequence[torch.Tensor]) -> Any:
    """An OpenVINO model of a torch module, traced with sample inputs.

    The decoder and the loading by framework are internal to OpenVINO: `openvino.convert_model`
    would do the same, but silences all loggers of the process while it runs.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings():
        # Tracing warns of branches on a size; the other samples show whether they matter.
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(
            module, example_input=tuple(sample), trace_kwargs={"check_trace": False}
        )
        model = frontend.convert(frontend.load(decoder))
    del decoder
    clear_traced_classes()
    return model


def clear_traced_classes() -> None:
    """Drop the classes that torch registered while tracing.

    torch keeps them, megabytes for each model, until the process ends, and offers only a private
    function to release them.
    """
    torch._C._jit_clear_class_registry()


class _CompiledPass:
    """A compiled model; calls from several threads run one after another."""

    def __init__(self, module: torch.nn.Module, sample: Sequence[torch.Tensor]) -> None:
        # OpenVINO reports its use over the network unless this package is missing.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # The process that starts a worker decides which cores it uses.
            "ENABLE_CPU_PINNING": False,
        }
        self._tensor_class = openvino.Tensor
        compiled = openvino.Core().compile_model(trace(module, sample), "CPU", settings)
        self._request: Any = compiled.create_infer_request()
        self._guard = threading.Lock()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
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
