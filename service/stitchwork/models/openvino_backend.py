"""A model's pass on a CPU, compiled by OpenVINO; the only file that imports it."""

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
"""Inputs of n rows to (n, d) float32."""

MAX_DIFFERENCE: Final = 1e-4
"""Most that a row may differ from torch's, relative to its length; rounding makes it 1e-6."""


@torch.no_grad()
def compile_if_faster(
    module: torch.nn.Module, name: str, samples: Sequence[Sequence[torch.Tensor]]
) -> ForwardPass:
    """The compiled pass of a model, or its own where none can be had or where the two differ.

    Args:
        module: The model, on a CPU, in evaluation mode; let go of if its compiled pass is taken.
        name: What the log calls it.
        samples: Inputs. The first is traced; the others, to tell that no size of it was taken for
            a constant, have other numbers of rows and other lengths, up to the longest there may
            be.
    """
    if find_spec("openvino") is None:
        return module
    began = time.perf_counter()
    try:
        found = _Compiled(module, samples[0])
        worst = max(max_relative_difference(module(*sample), found(*sample)) for sample in samples)
    except Exception as error:  # noqa: BLE001 whatever a compiler makes of a model, torch runs it
        log.warning("not compiled", extra={"model": name, "reason": type(error).__name__})
        return module
    if not worst <= MAX_DIFFERENCE:
        log.warning("compiled wrongly", extra={"model": name, "difference": worst})
        return module
    seconds = round(time.perf_counter() - began, 2)
    log.info("compiled", extra={"model": name, "seconds": seconds, "difference": worst})
    return found


def max_relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """By how much rows differ at most, relative to their length."""
    return float(((ours - theirs).norm(dim=1) / ours.norm(dim=1).clamp_min(1e-12)).max())


class _Compiled:
    """Calls for one thread at a time."""

    def __init__(self, module: torch.nn.Module, sample: Sequence[torch.Tensor]) -> None:
        # It tells its makers of each use unless this is missing; nothing calls home from here.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        # `openvino.convert_model` would do, but silences the loggers of the process meanwhile.
        frontend = FrontEndManager().load_by_framework("pytorch")
        with warnings.catch_warnings():
            # Of branches that were taken by a size; the samples tell whether it matters.
            warnings.simplefilter("ignore")
            decoder = TorchScriptPythonDecoder(
                module, example_input=tuple(sample), trace_kwargs={"check_trace": False}
            )
            model = frontend.convert(frontend.load(decoder))
        del decoder
        # Else torch keeps what it traced, megabytes each time, for as long as the process lives.
        torch._C._jit_clear_class_registry()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Which cores a worker may have is its launcher's to say.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._request: Any = compiled.create_infer_request()
        self._guard = threading.Lock()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        arrays = [tensor.contiguous().numpy() for tensor in inputs]
        with self._guard:
            found = self._request.infer(arrays, share_inputs=True)
            return torch.from_numpy(found[0])
