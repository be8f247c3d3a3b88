"""Translate embeddings of one space into another."""

from collections.abc import Callable
from typing import Any

from stitchwork.geometry.bridges import BridgeName
from stitchwork.inference.translator import TranslatedRows, Translator
from stitchwork.resources import Space
from stitchwork.telemetry import Telemetry


def translate(
    translator: Translator,
    source: Space,
    target: Space,
    bridge: BridgeName,
    rows: Any,
    *,
    telemetry: Telemetry,
    synchronize: Callable[[], None] | None = None,
) -> TranslatedRows:
    """Translate embeddings.

    Args:
        translator: Maps of pairs of spaces, on the device of the rows.
        source: The space that the rows are in.
        target: The space to translate into; if it is the source, rows are returned unchanged.
        bridge: The bridge.
        rows: (n, d_X) float32, need not be unit; a numpy array, or a torch tensor on the device of
            the maps.
        telemetry: Times the step.
        synchronize: Waits for the device to finish, so that the time includes its work; None on
            the CPU.

    Returns:
        (n, d_Y) float32 rows, in the array library of the input.
    """
    pair_map = translator.pair_map(source, target, bridge)
    with telemetry.step("translate"):
        result = pair_map.apply(rows)
        if synchronize:
            synchronize()
    return result
