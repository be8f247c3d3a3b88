"""Rows of one space as rows of another."""

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
        translator: Gives the map of a pair of spaces, on the device of the rows.
        source: The space the rows are in.
        target: The space to translate into; the source itself passes rows through.
        bridge: The bridge.
        rows: (n, d_X) float32, need not be unit; numpy, or torch on the translator's device.
        telemetry: Where the step is timed.
        synchronize: Waits for the device, so that its work is timed; None on the CPU.

    Returns:
        (n, d_Y) rows in the array library of the input.
    """
    pair_map = translator.pair_map(source, target, bridge)
    with telemetry.step("translate"):
        result = pair_map.apply(rows)
        if synchronize:
            synchronize()
    return result
