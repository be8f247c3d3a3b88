"""What a worker announces of itself, and how long it leaves work to others."""

from stitchwork.models.encoder_cache import MIN_PATIENCE_SECONDS, EncoderCache
from stitchwork.queue.worker_registry import Heartbeat, WorkerStatus
from stitchwork.worker.encoder_check import EncoderChecker


def describe(
    name: str, models: tuple[str, ...], encoders: EncoderCache, checker: EncoderChecker
) -> WorkerStatus:
    """The status that a worker announces.

    Args:
        name: Of the worker.
        models: Patterns of the models it takes work for.
        encoders: What it has loaded.
        checker: Which spaces it refuses.
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
    """Seconds that work for an encoder waits before a worker without it takes it.

    Zero where it is loaded; a moment where another worker has it, which is likely to be quicker.
    """
    own = encoders.patience(encoder)
    elsewhere = encoder not in encoders.loaded() and heartbeat.is_loaded_elsewhere(encoder)
    return max(own, MIN_PATIENCE_SECONDS) if elsewhere else own
