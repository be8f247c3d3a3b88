"""Composition root of a worker process."""

import os
import socket
from functools import partial
from typing import Any, Final

from prometheus_client import start_http_server

from stitchwork.bootstrap.shared import limit_blas, registry_on, servers, telemetry
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.queue.messages import REGISTRATION_STREAM
from stitchwork.queue.streams import new_id
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.resources import EncoderSpec
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics

HUNG: Final = 70
"""Exit code of a worker that a call never came back to."""


def show_metrics(settings: Settings, metrics: Metrics) -> None:
    """Show a worker's metrics on a port of its own, if it has one, until the process ends.

    Raises:
        ValueError: If the port is taken.
    """
    if not settings.worker_metrics_port:
        return
    port = settings.worker_metrics_port + settings.worker_index
    try:
        start_http_server(port, settings.host, metrics.registry)
    except OSError as error:
        raise ValueError(f"worker_metrics_port {port}: {error.strerror}") from error


def worker(settings: Settings) -> Any:
    """A worker; what it needs is imported here, since only workers have torch.

    Raises:
        RegistryUnavailableError: If the registry server cannot be reached.
    """
    seen = telemetry(settings, "worker")
    show_metrics(settings, seen.metrics)
    if settings.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    # All read once, on import. Without them the hub's libraries ask for more than the files that we
    # name: who runs them, and, of a model of pickles, somebody to convert it.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    import torch

    from stitchwork.models.encoder_cache import EncoderCache, LoadedEncoder
    from stitchwork.queue.consumer import Consumer
    from stitchwork.queue.worker_registry import Heartbeat
    from stitchwork.worker.batch_runner import BatchRunner
    from stitchwork.worker.encoder_check import EncoderChecker
    from stitchwork.worker.loop import LOAD_SECONDS, Worker
    from stitchwork.worker.placement import describe, patience
    from stitchwork.worker.registration import FIT_SECONDS, RegistrationRunner

    registry_server, queue_server = servers(settings)
    registry = registry_on(registry_server, settings)
    inverses = InverseCache(queue_server, settings.fit_threads, seen.metrics)
    catalog = EncoderCache(
        settings.device,
        settings.model_roots,
        settings.offline,
        hub_models=settings.hub_models,
        memory_bytes=settings.model_memory_bytes,
        worker_index=settings.worker_index,
        max_pixels=settings.max_image_pixels,
        max_tokens=settings.max_text_tokens,
        compile_models=settings.compile_models,
        cuda_graphs=settings.cuda_graphs,
        metrics=seen.metrics,
    )
    limit_blas(settings)
    if settings.blas_threads:
        torch.set_num_threads(settings.blas_threads)
    items_per_batch = settings.items_per_batch or (32 if catalog.device.type == "cpu" else 64)
    name = f"{socket.gethostname()}-{os.getpid()}-{new_id()[:8]}"
    translator = Translator(
        registry, inverses, settings.map_cache_bytes, catalog.to_device, seen.metrics
    )
    verifier = EncoderChecker(registry, catalog)
    presence = Heartbeat(
        queue_server,
        settings.worker_ttl_seconds,
        lambda: describe(name, settings.worker_models, catalog, verifier),
    )
    announced = WorkerStatus(worker=name, serves=settings.worker_models)

    def end() -> None:
        """A call that hangs cannot be interrupted; who watches this process starts another."""
        presence.deregister()
        os._exit(HUNG)

    def for_fits(stream: str, model: str) -> bool:
        return stream == REGISTRATION_STREAM

    def for_models(stream: str, model: str) -> bool:
        return stream != REGISTRATION_STREAM and announced.takes(model)

    fits = Consumer(
        queue_server,
        f"{name}-fits",
        items_per_batch=1,
        lease=settings.lease_seconds,
        hang=FIT_SECONDS,
        takes=for_fits,
        on_dead_letter=lambda job: upkeep.handle_dead_letter(job),
        on_hang=end,
        telemetry=seen,
    )
    consumer = Consumer(
        queue_server,
        name,
        # Two batches at once: enough to sort by length, and others queue up meanwhile.
        items_per_batch=2 * items_per_batch,
        lease=settings.lease_seconds,
        hang=settings.forward_timeout_seconds,
        takes=for_models,
        patience=partial(patience, catalog, presence),
        on_dead_letter=lambda job: upkeep.handle_dead_letter(job),
        on_hang=end,
        telemetry=seen,
    )

    def load(spec: EncoderSpec) -> LoadedEncoder:
        """A loaded encoder; the lease of the current jobs is extended while it loads."""
        consumer.leases.progress(LOAD_SECONDS)
        loaded = catalog.get(spec)
        consumer.leases.progress()
        return loaded

    upkeep = RegistrationRunner(
        registry,
        fits,
        translator,
        catalog,
        load,
        items_per_batch=items_per_batch,
        chunk_items=settings.items_per_job,
    )
    runner = BatchRunner(
        consumer.leases,
        load,
        catalog,
        verifier,
        translator,
        ClassifierCache(registry, place=catalog.to_device, metrics=seen.metrics),
        items_per_batch=items_per_batch,
        telemetry=seen,
    )
    return Worker(consumer, presence, upkeep, runner, seen)
