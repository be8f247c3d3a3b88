"""Memory of the device that models run on, copies to it, and the completion of its work."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from typing import Final

import torch

from stitchwork.container_limits import memory_limit_bytes

CPU_OUT_OF_MEMORY: Final = ("not enough memory", "can't allocate memory", "cannot allocate memory")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""
TRIM_THRESHOLD_BYTES: Final = 1 << 30
"""Freed heap memory above this is returned to the system."""


def device_memory_bytes(device: torch.device) -> int:
    """Memory of a device in bytes; of a CPU, what this machine or container may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, memory_limit_bytes() or machine)


def configure_allocator() -> None:
    """Let the C library reuse the memory that a forward pass frees for the next one.

    By default glibc maps large blocks anew in every pass, page by page, which takes up to half of
    the time of a convolutional network on a CPU. After this call they come from the heap, which
    `release_memory` trims. With other C libraries this does nothing.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)


def release_memory(device: torch.device) -> None:
    """Collect garbage and return freed memory to the device or the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the machine is out of memory."""
    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        part in message for part in CPU_OUT_OF_MEMORY
    )


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device.

    To a GPU it is copied from pinned memory, while the GPU still computes what was submitted
    before. torch reuses pinned memory only after the copy.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def record_work(device: torch.device) -> Callable[[], None] | None:
    """A function that waits until a device has done all that was submitted to it so far.

    Returns:
        None if everything is done already, as on a CPU.
    """
    if device.type != "cuda":
        return None
    event = torch.cuda.current_stream(device).record_event()
    return lambda: event.synchronize()


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work; GPUs run asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
