"""The status that a worker announces, and when it takes work that another could do sooner."""

from typing import Final

from stitchwork.models.encoder_cache import MIN_PATIENCE_SECONDS, EncoderCache
from stitchwork.queue.heartbeats import Heartbeat
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.worker.encoder_check import EncoderChecker

OTHERS_SECONDS: Final = 10.0
"""Time for another worker that has loaded an encoder of which this one refuses a space."""


def describe(
    name: str, models: tuple[str, ...], encoders: EncoderCache, checker: EncoderChecker
) -> WorkerStatus:
    """The status that a worker announces.

    Args:
        name: Name of the worker.
        models: Patterns of the models that it takes work for.
        encoders: Its device and loaded encoders.
        checker: The spaces that it refuses.
    """
    return WorkerStatus(
        worker=name,
        device=str(encoders.device),
        dtypes=encoders.dtypes,
        serves=models,
        loaded=tuple(key for key in encoders.loaded() if not checker.refuses(key)),
        model_bytes=encoders.nbytes(),
        refused=checker.refused(),
    )


def patience(
    encoders: EncoderCache, checker: EncoderChecker, heartbeat: Heartbeat, encoder: str
) -> float:
    """Seconds that work for an encoder waits before this worker takes it.

    Zero if the encoder is loaded. If only another worker has loaded it, at least
    `MIN_PATIENCE_SECONDS`, because that worker is likely to be quicker. If this worker refuses a
    space of the encoder, others get the time to take the work, so that callers get an error only
    where no worker has the right files.

    Args:
        encoders: The encoders that this worker has loaded.
        checker: The spaces that it refuses.
        heartbeat: Knows what other workers have loaded.
        encoder: Key of the encoder.
    """
    if checker.refuses(encoder):
        elsewhere = heartbeat.is_loaded_elsewhere(encoder)
        return OTHERS_SECONDS if elsewhere else MIN_PATIENCE_SECONDS
    seconds = encoders.patience(encoder)
    if encoder not in encoders.loaded() and heartbeat.is_loaded_elsewhere(encoder):
        return max(seconds, MIN_PATIENCE_SECONDS)
    return seconds
