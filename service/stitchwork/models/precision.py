"""The data types that a worker computes models in."""

from collections.abc import Collection
from typing import Final

import torch

from stitchwork.errors import ErrorCode, JobFailedError
from stitchwork.models.cpu_features import CPU_INFO, INSTRUCTIONS, cpu_flags
from stitchwork.resources import Dtype, DtypeChoice, EncoderSpec

TORCH_DTYPES: Final[dict[DtypeChoice, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def torch_dtype(spec: EncoderSpec) -> torch.dtype:
    """The data type that a resolved encoder is computed in.

    Raises:
        JobFailedError: If the spec leaves it open.
    """
    if spec.dtype not in TORCH_DTYPES:
        raise JobFailedError(
            f"dtype: expected {', '.join(TORCH_DTYPES)} for {spec.model}, got {spec.dtype}",
            code=ErrorCode.LOAD_FAILED,
        )
    return TORCH_DTYPES[spec.dtype]


def device_dtypes(device: torch.device) -> tuple[Dtype, ...]:
    """The data types that a device of this machine computes in."""
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("float32", "bfloat16", "float16") if has_bfloat16 else ("float32", "float16")
    return cpu_dtypes(cpu_flags(CPU_INFO)) if device.type == "cpu" else ("float32",)


def cpu_dtypes(flags: Collection[str]) -> tuple[Dtype, ...]:
    """The data types that a CPU has instructions for.

    Args:
        flags: Its flags, as Linux names them.
    """
    halves: tuple[Dtype, ...] = ("bfloat16", "float16")
    return ("float32", *(dtype for dtype in halves if INSTRUCTIONS[dtype].intersection(flags)))


def preferred_dtype(device: torch.device, dtypes: Collection[Dtype], *, compiles: bool) -> Dtype:
    """What `auto` is on a worker, if the rows of the model agree with those of float32.

    Args:
        device: The device of the worker.
        dtypes: What it computes in.
        compiles: Whether it compiles models for a CPU. torch casts the weights in every pass,
            which costs as much as bfloat16 saves.
    """
    is_faster = device.type == "cuda" or compiles
    return "bfloat16" if is_faster and "bfloat16" in dtypes else "float32"


def check_dtype(spec: EncoderSpec, device: torch.device, dtypes: Collection[Dtype]) -> None:
    """Refuse an encoder that a worker cannot compute as it is registered.

    Raises:
        JobFailedError: If the device does not compute in its data type.
    """
    if spec.dtype not in dtypes:
        raise JobFailedError(
            f"dtype: this worker computes in {', '.join(dtypes)} on {device}, {spec.model} is to "
            f"be computed in {spec.dtype}",
            code=ErrorCode.LOAD_FAILED,
        )
