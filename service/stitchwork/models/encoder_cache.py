"""Loads encoders on demand, each once, and only from allowed sources; evicts them by memory."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, assert_never

import numpy as np
import torch
from cachetools import TTLCache

from stitchwork.errors import StitchworkError
from stitchwork.geometry.classifier import Classifier
from stitchwork.models.batching import Batcher
from stitchwork.models.encoder import (
    MAX_PIXELS,
    MAX_TOKENS,
    SAMPLE_IMAGE,
    SAMPLE_TEXT,
    Encoder,
    resolve_device,
)
from stitchwork.models.hub import Hub
from stitchwork.models.load_errors import LOAD_ERRORS, convert_error
from stitchwork.models.memory import (
    configure_allocator,
    device_memory_bytes,
    is_out_of_memory,
    release_memory,
)
from stitchwork.models.model_files import ModelFiles
from stitchwork.resources import (
    EncoderSpec,
    ImageEncoder,
    Item,
    TextEncoder,
    VisionEncoder,
    encoder_key,
)
from stitchwork.telemetry import Metrics

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 15.0
"""An encoder that could not be loaded is not tried again for this long."""
MAX_FAILURES: Final = 1024
MIN_PATIENCE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """An encoder in memory.

    Attributes:
        encoder: The encoder.
        batcher: Runs it in batches.
        seconds: Time that loading took.
    """

    encoder: Encoder
    batcher: Batcher
    seconds: float


class EncoderCache:
    """The encoders that a worker has loaded; the least recently used are evicted.

    Args:
        device: Name of the device they run on.
        roots: Folders that local model files may be read from.
        offline: Never connect to a hub.
        hub_models: Patterns of the hub models that may be loaded.
        memory_bytes: Maximum memory of the loaded encoders; 0 is half of the device's memory.
        worker_index: Index of the worker on its machine.
        max_pixels: Maximum pixels of an image.
        max_tokens: Maximum tokens of a text, for models that accept more.
        compile_models: Whether models are compiled when they are first loaded, on a CPU.
        cuda_graphs: Whether small batches are replayed as CUDA graphs, on a GPU.
        metrics: Records the loaded encoders and their memory.
    """

    def __init__(
        self,
        device: str,
        roots: Sequence[Path],
        offline: bool,
        *,
        hub_models: Sequence[str] = (),
        memory_bytes: int = 0,
        worker_index: int = 0,
        max_pixels: int = MAX_PIXELS,
        max_tokens: int = MAX_TOKENS,
        compile_models: bool = True,
        cuda_graphs: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._max_pixels = max_pixels
        self._max_tokens = max_tokens
        self._compile_models = compile_models
        self._cuda_graphs = cuda_graphs
        self.device = resolve_device(device, worker_index)
        if self.device.type == "cpu":
            configure_allocator()
        self._files = ModelFiles(roots, Hub(hub_models, offline=offline))
        self._max_bytes = memory_bytes or device_memory_bytes(self.device) // 2
        self._loading = threading.Lock()
        # Released while an encoder is loading, so that others can read what is loaded.
        self._guard = threading.Lock()
        self._loaded: OrderedDict[str, LoadedEncoder] = OrderedDict()
        self._failures: TTLCache[str, StitchworkError] = TTLCache(MAX_FAILURES, RETRY_SECONDS)
        self._costs: dict[str, tuple[int, float]] = {}
        self._tuned: dict[str, int] = {}

    def get(self, spec: EncoderSpec) -> LoadedEncoder:
        """The encoder of a spec, loaded and warmed up if it is not yet.

        Raises:
            InvalidInputError: If the spec is invalid, or names files outside the allowed folders.
            JobFailedError: If the model cannot be loaded; it is not tried again for a while.
        """
        key = encoder_key(spec)
        with self._loading:
            with self._guard:
                loaded = self._loaded.get(key)
                if loaded is not None:
                    self._loaded.move_to_end(key)
                    return loaded
                error = self._failures.get(key)
            if error is not None:
                raise error
            return self._load_into_memory(key, spec)

    def classifier(self, spec: EncoderSpec) -> tuple[Classifier, list[str]]:
        """The classifier of a pretrained model, and its labels.

        Raises:
            InvalidInputError: If the model has no classifier that can be extracted.
            JobFailedError: If the model cannot be loaded.
        """
        try:
            files = self._files.path(spec)
            match spec:
                case TextEncoder():
                    from stitchwork.models.text_classifier import text_classifier

                    return text_classifier(spec, files)
                case ImageEncoder():
                    from stitchwork.models.timm_classifier import image_classifier

                    return image_classifier(spec, files)
                case VisionEncoder():
                    from stitchwork.models.vision_classifier import vision_classifier

                    return vision_classifier(spec, files)
                case _:
                    assert_never(spec)
        except LOAD_ERRORS as error:
            raise convert_error(spec, error) from error

    def to_device(self, array: Any) -> Any:
        """An array as maps and heads are applied to it: a tensor on the device of the encoders.

        On a CPU it is a numpy array, which takes a third of torch's time for a few rows.
        """
        if self.device.type == "cpu":
            return array.numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
        return torch.as_tensor(array).to(self.device)

    def loaded(self) -> tuple[str, ...]:
        """The keys of the loaded encoders."""
        with self._guard:
            return tuple(self._loaded)

    def nbytes(self) -> int:
        """Memory of the loaded encoders in bytes."""
        with self._guard:
            return self._used_bytes()

    def patience(self, key: str) -> float:
        """Seconds that jobs for an encoder wait before this worker evicts another one for it.

        0 if the encoder is loaded, or fits beside the loaded ones. Otherwise twice the time that
        loading takes, so that however many encoders take turns, at least half of the time is
        spent on jobs.
        """
        with self._guard:
            needed, seconds = self._costs.get(key, (0, 0.0))
            fits = self._used_bytes() + needed <= self._max_bytes
            if key in self._loaded or not self._loaded or fits:
                return 0.0
            return max(MIN_PATIENCE_SECONDS, 2 * seconds)

    def evict(self, key: str) -> None:
        """Remove an encoder from memory, if it is loaded."""
        with self._guard:
            evicted = self._loaded.pop(key, None)
        if evicted is not None:
            log.info("model evicted", extra={"encoder": key})
            self._metrics.model_evictions.inc()
            self._update_gauges()
            del evicted
            release_memory(self.device)

    def pin(self, spec: EncoderSpec) -> EncoderSpec:
        """The spec with what is in force: a commit, and what the model's own files decide.

        Raises:
            InvalidInputError: If the spec does not fit the model, or names one that is not allowed.
            JobFailedError: If the files cannot be read or followed.
        """
        pinned = self._files.pin(spec)
        if isinstance(pinned, ImageEncoder) or pinned.is_resolved:
            return pinned
        try:
            files = self._files.path(pinned)
            if isinstance(pinned, VisionEncoder):
                from stitchwork.models.transformers_vision_encoder import pin_vision_encoder

                return pin_vision_encoder(pinned, files)
            from stitchwork.models.text_settings import pin_text_encoder

            return pin_text_encoder(pinned, files)
        except LOAD_ERRORS as error:
            raise convert_error(spec, error) from error

    def _used_bytes(self) -> int:
        return sum(loaded.encoder.nbytes for loaded in self._loaded.values())

    def _load_into_memory(self, key: str, spec: EncoderSpec) -> LoadedEncoder:
        """Load an encoder, evicting others as needed, or remember that it cannot be loaded."""
        needed, _ = self._costs.get(key, (0, 0.0))
        self._evict_for(needed)
        try:
            try:
                loaded = self._load(spec)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._evict_for(self._max_bytes)
                loaded = self._load(spec)
        except StitchworkError as error:
            self._record_failure(key, error)
            raise
        except LOAD_ERRORS as error:
            load_error = convert_error(spec, error)
            self._record_failure(key, load_error)
            raise load_error from error
        self._costs[key] = (loaded.encoder.nbytes, loaded.seconds)
        self._evict_for(loaded.encoder.nbytes)
        with self._guard:
            self._loaded[key] = loaded
        self._metrics.model_loads.inc()
        self._update_gauges()
        return loaded

    def _update_gauges(self) -> None:
        self._metrics.loaded_models.set(len(self.loaded()))
        self._metrics.loaded_model_bytes.set(self.nbytes())

    def _record_failure(self, key: str, error: StitchworkError) -> None:
        with self._guard:
            self._failures[key] = error

    def _evict_for(self, needed: int) -> None:
        """Evict the least recently used encoders until so many bytes are free."""
        while self.nbytes() + needed > self._max_bytes:
            with self._guard:
                if not self._loaded:
                    return
                oldest = next(iter(self._loaded))
            self.evict(oldest)

    def _load(self, spec: EncoderSpec) -> LoadedEncoder:
        began = time.perf_counter()
        encoder = self._create(spec)
        batcher = Batcher(encoder, self._metrics)
        sample = encoder.prepare([_sample(spec)], truncate=True)
        batcher.embed(sample, 1)
        if self.device.type == "cpu":
            key = encoder_key(spec)
            batcher.max_elements = self._tuned.get(key) or batcher.tune(sample)
            self._tuned[key] = batcher.max_elements
        seconds = time.perf_counter() - began
        log.info("model loaded", extra={"model": spec.model, "seconds": round(seconds, 2)})
        return LoadedEncoder(encoder, batcher, seconds)

    def _create(self, spec: EncoderSpec) -> Encoder:
        # Each of these libraries takes seconds to import and a hundred megabytes of memory: a
        # worker is ready without them, and one that serves only texts never loads that of images.
        files = self._files.path(spec)
        # Where models take turns, compiling one each time would take longer than it saves, and
        # the memory that the compiler keeps for each would add up.
        compile_models = self._compile_models and encoder_key(spec) not in self._costs
        match spec:
            case TextEncoder():
                from stitchwork.models.sentence_transformers_files import is_static
                from stitchwork.models.static_encoder import StaticEncoder
                from stitchwork.models.transformers_encoder import TransformersEncoder

                if is_static(files):
                    return StaticEncoder(spec, self.device, files, self._max_tokens)
                return TransformersEncoder(
                    spec,
                    self.device,
                    files,
                    self._max_tokens,
                    compile_models=compile_models,
                    cuda_graphs=self._cuda_graphs,
                )
            case ImageEncoder():
                from stitchwork.models.timm_encoder import TimmEncoder

                return TimmEncoder(
                    spec,
                    self.device,
                    files,
                    self._max_pixels,
                    compile_models=compile_models,
                    cuda_graphs=self._cuda_graphs,
                )
            case VisionEncoder():
                from stitchwork.models.transformers_vision_encoder import (
                    TransformersVisionEncoder,
                )

                return TransformersVisionEncoder(
                    spec,
                    self.device,
                    files,
                    self._max_pixels,
                    compile_models=compile_models,
                    cuda_graphs=self._cuda_graphs,
                )
            case _:
                assert_never(spec)


def _sample(spec: EncoderSpec) -> Item:
    match spec:
        case TextEncoder():
            return SAMPLE_TEXT
        case ImageEncoder() | VisionEncoder():
            return SAMPLE_IMAGE
        case _:
            assert_never(spec)
