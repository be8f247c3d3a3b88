"""The method as pure functions on arrays, without I/O, clock or global state.

Written to the array API standard, so that the same function runs on numpy in the API and on torch
on a worker's device. Fitting uses float64, serving float32.

    anchors ──Frame.from_anchors──> Frame ──compute_inverse──> Inverse, cached per space
                                      │                           │
                                      └──────────compose──────────┘──> Map ──apply──> target rows
"""

from typing import Any, TypeAlias

Array: TypeAlias = Any
"""An array of any library that implements the array API standard, which defines no type for it."""
