"""The kind of this machine's CPU, and its instructions for numbers of 16 bits."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CPU_INFO: Final = Path("/proc/cpuinfo")

INSTRUCTIONS: Final[Mapping[str, frozenset[str]]] = {
    "bfloat16": frozenset({"amx_bf16", "avx512_bf16"}),
    "float16": frozenset({"amx_fp16", "avx512_fp16"}),
}
"""Flags of a CPU that computes in a data type; one of them is enough."""


def cpu_flags(info: Path) -> frozenset[str]:
    """The flags that all processors of a machine have; none if the kernel does not list them.

    Args:
        info: `/proc/cpuinfo`, or a file like it.
    """
    lines = _lines(info)
    flags = [frozenset(value.split()) for name, value in lines if name in ("flags", "Features")]
    return frozenset.intersection(*flags) if flags else frozenset()


def describe_cpu(info: Path) -> str:
    """The kind of the CPU: machines of equal kinds run the same compiled models."""
    names = {value for name, value in _lines(info) if name == "model name"}
    return " ".join([platform.machine(), *sorted(names), *sorted(cpu_flags(info))])


def _lines(info: Path) -> list[tuple[str, str]]:
    """Names and values of the lines of a file; none if it does not exist."""
    if not info.is_file():
        return []
    pairs = (line.partition(":") for line in info.read_text(errors="replace").splitlines())
    return [(name.strip(), value.strip()) for name, _, value in pairs]
