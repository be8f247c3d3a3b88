"""Composition root of a worker process."""

import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

from stitchwork.bootstrap.shared import (
    check_servers,
    connect_servers,
    limit_blas,
    make_telemetry,
    open_registry,
)
from stitchwork.errors import UnavailableError
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.queue.heartbeats import Heartbeat, StartAnnouncement
from stitchwork.queue.messages import REGISTRATION_STREAM, Job
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.queue.streams import new_id
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.registry.space_checks import POLL_SECONDS, SpaceCheckThread
from stitchwork.resources import EncoderSpec
from stitchwork.settings import Settings
from stitchwork.telemetry import Metrics
from stitchwork.worker.probe_server import ProbeServer

if TYPE_CHECKING:
    from stitchwork.models.encoder_cache import EncoderCache
    from stitchwork.models.loaded_encoder import LoadedEncoder
    from stitchwork.worker.loop import Worker

HUNG: Final = 70
"""Exit code of a worker whose call into a model or a fit did not return."""
CPU_BATCH: Final = 32
GPU_BATCH: Final = 64


def make_worker(settings: Settings) -> "Worker":
    """The worker, connected to its servers.

    The modules that need torch are imported here: an API process has no torch.

    Raises:
        RegistryUnavailableError: If the registry server cannot be reached.
        ValueError: If its port is taken.
    """
    telemetry = make_telemetry(settings, "worker")
    # Before the libraries of models, which take a cold machine a minute to read.
    probes = start_probe_server(settings, telemetry.metrics)
    configure_hub(settings)
    registry_server, shards = connect_servers(settings)
    name = f"{socket.gethostname()}-{os.getpid()}-{new_id()[:8]}"
    announcement = StartAnnouncement(
        shards,
        settings.worker_ttl_seconds,
        WorkerStatus(worker=name, serves=settings.worker_models),
    )
    announcement.start()

    from stitchwork.queue.consumer import Consumer
    from stitchwork.worker.batch_runner import BatchRunner
    from stitchwork.worker.encoder_check import EncoderChecker
    from stitchwork.worker.loop import LOAD_SECONDS, Worker
    from stitchwork.worker.placement import describe, patience
    from stitchwork.worker.preload import preload
    from stitchwork.worker.registration import FIT_SECONDS, RegistrationRunner

    registry = open_registry(registry_server, settings)
    check_servers(registry, shards)
    inverses = InverseCache(shards[0], settings.fit_threads, telemetry.metrics)
    encoders = make_encoder_cache(settings, telemetry.metrics)
    items_per_batch = inputs_per_batch(settings, encoders)
    translator = Translator(
        registry, inverses, settings.map_cache_bytes, encoders.to_device, telemetry.metrics
    )
    checker = EncoderChecker(registry)
    heartbeat = Heartbeat(
        shards,
        settings.worker_ttl_seconds,
        lambda: describe(name, settings.worker_models, encoders, checker),
    )
    status = WorkerStatus(worker=name, serves=settings.worker_models, dtypes=encoders.dtypes)

    def exit_hung() -> None:
        """End the process, for a supervisor to restart: a call that hangs cannot be interrupted."""
        heartbeat.deregister()
        os._exit(HUNG)

    def takes_registrations(encoder: str, requirement: ModelRequirement) -> bool:
        return encoder == REGISTRATION_STREAM

    def takes_inference(encoder: str, requirement: ModelRequirement) -> bool:
        return encoder != REGISTRATION_STREAM and status.takes(requirement)

    def handle_dead_letter(job: Job) -> None:
        registrations.handle_dead_letter(job)

    def load(spec: EncoderSpec, *, prove: bool = False) -> "LoadedEncoder":
        """A loaded encoder; the lease of the current jobs is extended while it loads."""
        consumer.leases.progress(LOAD_SECONDS)
        loaded = encoders.get(spec, prove=prove)
        consumer.leases.progress()
        return loaded

    def load_compiled(spec: EncoderSpec, *, prove: bool = False) -> "LoadedEncoder":
        """The same, once it is compiled: anchors are embedded as later inputs will be."""
        consumer.leases.progress(LOAD_SECONDS)
        loaded = encoders.get(spec, prove=prove)
        loaded.wait_until_compiled()
        consumer.leases.progress()
        return loaded

    registration_consumer = Consumer(
        shards,
        f"{name}-fits",
        items_per_batch=1,
        lease=settings.lease_seconds,
        hang=FIT_SECONDS,
        takes=takes_registrations,
        on_dead_letter=handle_dead_letter,
        on_hang=exit_hung,
        telemetry=telemetry,
    )
    consumer = Consumer(
        shards,
        name,
        # Two batches at once: enough to sort by length, while others queue up.
        items_per_batch=2 * items_per_batch,
        lease=settings.lease_seconds,
        hang=settings.forward_timeout_seconds,
        takes=takes_inference,
        patience=partial(patience, encoders, checker, heartbeat),
        on_dead_letter=handle_dead_letter,
        on_hang=exit_hung,
        telemetry=telemetry,
    )
    registrations = RegistrationRunner(
        registry,
        registration_consumer,
        translator,
        SpaceCheckThread(registry.space_checks, poll_seconds=POLL_SECONDS),
        encoders,
        checker,
        load_compiled,
        items_per_batch=items_per_batch,
        chunk_items=settings.items_per_job,
    )
    runner = BatchRunner(
        consumer.leases,
        load,
        encoders,
        checker,
        translator,
        ClassifierCache(registry, settings.head_cache_bytes, encoders.to_device, telemetry.metrics),
        items_per_batch=items_per_batch,
        telemetry=telemetry,
    )

    def takes(encoder: EncoderSpec) -> bool:
        return status.takes(ModelRequirement.of(encoder))

    worker = Worker(
        consumer,
        announcement,
        heartbeat,
        registrations,
        runner,
        encoders,
        partial(preload, registry, settings.preload, takes, load),
        telemetry,
        exit_hung,
    )
    if probes is not None:
        probes.process = worker
    return worker


def start_probe_server(settings: Settings, metrics: Metrics) -> ProbeServer | None:
    """The server of a worker's probes and metrics, if it has a port.

    Raises:
        ValueError: If the port is taken.
    """
    if not settings.worker_port:
        return None
    port = settings.worker_port + settings.worker_index
    try:
        return ProbeServer(settings.host, port, metrics.registry)
    except UnavailableError as error:
        raise ValueError(f"worker_port: {error}") from error


def configure_hub(settings: Settings) -> None:
    """Set the environment of the model hub's libraries, which they read when they are imported."""
    if settings.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    # Otherwise they send more than requests for files: telemetry and, for a model of pickles, a
    # request to convert it.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"


def make_encoder_cache(settings: Settings, metrics: Metrics) -> "EncoderCache":
    """The encoders on the worker's device, with the threads of BLAS and torch limited."""
    import torch

    from stitchwork.models.compiled_files import CompiledFiles, default_folder
    from stitchwork.models.encoder_cache import EncoderCache

    folder = settings.compile_cache_dir or default_folder()
    encoders = EncoderCache(
        settings.device,
        settings.model_roots,
        settings.offline,
        hub_models=settings.hub_models,
        memory_bytes=settings.model_memory_bytes,
        worker_index=settings.worker_index,
        max_pixels=settings.max_image_pixels,
        max_tokens=settings.max_text_tokens,
        compile_models=settings.compile_models,
        compiled_files=CompiledFiles(
            folder if settings.compile_cache_bytes else None, settings.compile_cache_bytes
        ),
        cuda_graphs=settings.cuda_graphs,
        metrics=metrics,
    )
    threads = limit_blas(settings)
    if threads:
        torch.set_num_threads(threads)
    if torch.get_num_threads() == 1:
        # A pool of one thread takes longer than the thread that would wait for it.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return encoders


def inputs_per_batch(settings: Settings, encoders: "EncoderCache") -> int:
    """Maximum number of inputs in one forward pass."""
    on_cpu = encoders.device.type == "cpu"
    return settings.items_per_batch or (CPU_BATCH if on_cpu else GPU_BATCH)
