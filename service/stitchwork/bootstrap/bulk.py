"""Composition root of processes that embed in bulk, outside of the service."""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from stitchwork.bootstrap.worker import configure_hub, inputs_per_batch, make_encoder_cache
from stitchwork.migration.space_encoder import OpenEncoders
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics

if TYPE_CHECKING:
    from stitchwork.models.encoder_cache import EncoderCache

ENCODER_SETTINGS: Final = frozenset(
    {
        "blas_threads",
        "compile_cache_bytes",
        "compile_cache_dir",
        "compile_models",
        "cuda_graphs",
        "device",
        "hub_models",
        "items_per_batch",
        "max_image_pixels",
        "max_text_tokens",
        "model_memory_bytes",
        "model_roots",
        "offline",
    }
)
"""The settings of a worker that count for its encoders."""


def encoder_opener(settings: Settings) -> OpenEncoders:
    """What loads encoders in another process as a worker of these settings would.

    It has none of the others, such as URLs with passwords: it travels to all machines of a cluster.
    """
    return partial(_open_encoders, settings.model_dump(include=set(ENCODER_SETTINGS)))


def _open_encoders(options: dict[str, Any]) -> "tuple[EncoderCache, int]":
    # Without the environment of the machine, which may have other settings.
    settings = Settings.model_construct(**options)
    configure_hub(settings)
    encoders = make_encoder_cache(settings, Metrics())
    return encoders, inputs_per_batch(settings, encoders)
