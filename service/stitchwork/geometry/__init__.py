"""The method as pure functions on arrays: no I/O, no clock, no globals.

Written to the array API standard, so that the same function runs on numpy in the API and on torch
on a worker's device. Fitting is in float64, serving in float32.

    anchors ──frame──> Frame ──inverse──> what is cached per space
                         │                       │
                         └────────fuse───────────┘──> Map ──apply──> rows of the target
"""

from typing import Any, TypeAlias

Array: TypeAlias = Any
"""An array of any library that keeps the array API standard; the standard has no type for it."""
