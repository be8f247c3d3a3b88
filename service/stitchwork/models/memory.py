"""Memory of the device that models run on: how much there is, and what becomes of freed memory."""

import ctypes
import gc
import os
import sys
from pathlib import Path
from typing import Final

import torch

CPU_FULL: Final = ("not enough memory", "can't allocate memory", "cannot allocate memory")
CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""
KEPT_BYTES: Final = 1 << 30


def device_memory_bytes(device: torch.device) -> int:
    """Memory of a device; of a CPU, what this machine or this container may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else ""
    return min(machine, int(limit)) if limit.isdecimal() else machine


def configure_allocator() -> None:
    """Let this process keep what a forward pass frees, for the next one.

    glibc maps large blocks anew, page by page, in every pass: up to half of the time of a
    convolutional network on a CPU. So they come from the heap, which `release_memory` trims. With
    other C libraries this does nothing.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def release_memory(device: torch.device) -> None:
    """Give back what nobody uses any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no memory left."""
    told = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        part in told for part in CPU_FULL
    )


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given; a GPU works behind our back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
