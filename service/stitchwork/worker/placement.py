"""The status that a worker announces, and when it takes work that another could do sooner."""

from stitchwork.models.encoder_cache import MIN_PATIENCE_SECONDS, EncoderCache
from stitchwork.queue.worker_registry import Heartbeat, WorkerStatus
from stitchwork.worker.encoder_check import EncoderChecker


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
        serves=models,
        loaded=encoders.loaded(),
        model_bytes=encoders.nbytes(),
        refused=checker.refused(),
    )


def patience(encoders: EncoderCache, heartbeat: Heartbeat, encoder: str) -> float:
    """Seconds that work for an encoder waits before this worker takes it.

    Zero if the encoder is loaded. If only another worker has loaded it, at least
    `MIN_PATIENCE_SECONDS`, because that worker is likely to be quicker.

    Args:
        encoders: The encoders that this worker has loaded.
        heartbeat: Knows what other workers have loaded.
        encoder: Key of the encoder.
    """
    seconds = encoders.patience(encoder)
    if encoder not in encoders.loaded() and heartbeat.is_loaded_elsewhere(encoder):
        return max(seconds, MIN_PATIENCE_SECONDS)
    return seconds
