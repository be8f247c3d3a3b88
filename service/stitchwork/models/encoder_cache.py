"""From a spec to a loaded model: once, on demand, and only from where models may come."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError, StitchworkError
from stitchwork.geometry.classifier import Classifier
from stitchwork.models.batching import Batcher
from stitchwork.models.encoder import MAX_PIXELS, MAX_TOKENS, SAMPLE_TEXT, Encoder, resolve_device
from stitchwork.models.hub import Hub, is_pinned
from stitchwork.models.memory import (
    configure_allocator,
    device_memory_bytes,
    is_out_of_memory,
    release_memory,
)
from stitchwork.resources import EncoderSpec, ImageEncoder, Item, TextEncoder, encoder_key
from stitchwork.telemetry import Metrics

log = logging.getLogger(__name__)

FAILED_SECONDS: Final = 15.0
MIN_PATIENCE_SECONDS: Final = 1.0


@dataclass
class LoadedEncoder:
    """An encoder in memory.

    Attributes:
        encoder: The encoder.
        batcher: Runs it.
        seconds: How long it took to load.
        used: When it was last asked for.
    """

    encoder: Encoder
    batcher: Batcher
    seconds: float
    used: float


class EncoderCache:
    """The encoders that this worker has loaded; those used last stay, as far as memory goes.

    Args:
        device: Name of the device they run on.
        roots: Folders that local model files may be read from.
        offline: Never ask a hub.
        hub_models: Patterns of the hub's models that may be loaded.
        memory_bytes: Memory that loaded encoders may hold; 0 takes half of what the device has.
        number: Which of a machine's workers this is.
        max_pixels: Pixels that an image may have.
        max_tokens: Tokens that a text may have, if its model takes as many.
        compile_models: Whether models may be compiled, on a CPU, when they are first loaded.
        cuda_graphs: Whether small batches are replayed from recordings, on a GPU.
        metrics: Where models, and the memory they hold, are seen.
    """

    def __init__(
        self,
        device: str,
        roots: Sequence[Path],
        offline: bool,
        *,
        hub_models: Sequence[str] = (),
        memory_bytes: int = 0,
        number: int = 0,
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
        self.device = resolve_device(device, number)
        if self.device.type == "cpu":
            configure_allocator()
        self._roots = tuple(root.expanduser().resolve() for root in roots)
        self._hub = Hub(hub_models, offline=offline)
        self._most_bytes = memory_bytes or device_memory_bytes(self.device) // 2
        self._loading = threading.Lock()
        # Never held for long: what is loaded is asked for while something else is being loaded.
        self._guard = threading.Lock()
        self._loaded: dict[str, LoadedEncoder] = {}
        self._failed: dict[str, tuple[float, StitchworkError]] = {}
        self._known: dict[str, tuple[int, float]] = {}
        self._tuned: dict[str, int] = {}

    def get(self, spec: EncoderSpec) -> LoadedEncoder:
        """The encoder of a spec, loaded and warmed up if it is not yet.

        Raises:
            InvalidInputError: If the spec is wrong, or names files outside the allowed folders.
            JobFailedError: If the model cannot be loaded; for a while it is not tried again.
        """
        key = encoder_key(spec)
        with self._loading:
            with self._guard:
                found = self._loaded.get(key)
                until, error = self._failed.get(key, (0.0, None))
            if found is None:
                if error is not None and time.monotonic() < until:
                    raise error
                found = self._fetch(key, spec)
            found.used = time.monotonic()
            return found

    def classifier(self, spec: EncoderSpec) -> tuple[Classifier, list[str]]:
        """The classifier of a pretrained model, and its labels.

        Raises:
            InvalidInputError: If it has none that can be taken out.
            JobFailedError: If the model cannot be loaded.
        """
        try:
            files = self._files(spec)
            if isinstance(spec, TextEncoder):
                from stitchwork.models.transformers_encoder import text_classifier

                return text_classifier(spec, files)
            from stitchwork.models.timm_encoder import image_classifier

            return image_classifier(spec, files)
        except (OSError, ValueError, RuntimeError) as error:
            raise _cannot_load(spec, error) from error

    def to_device(self, array: Any) -> Any:
        """An array where maps and heads are applied: as a tensor on the device of the encoders.

        Beside encoders on a CPU as numpy, which takes a third of torch's time for a few rows.
        """
        if self.device.type == "cpu":
            return array.numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
        return torch.as_tensor(array).to(self.device)

    def loaded(self) -> tuple[str, ...]:
        """The keys of the loaded encoders."""
        with self._guard:
            return tuple(self._loaded)

    def nbytes(self) -> int:
        """Memory that the loaded encoders hold."""
        with self._guard:
            return sum(found.encoder.nbytes for found in self._loaded.values())

    def patience(self, key: str) -> float:
        """Seconds that work for an encoder may wait here before another makes room for it.

        No time if it is loaded, or fits beside those that are. Else twice as long as loading takes,
        so that at least half of the time goes into work however many encoders take turns.
        """
        with self._guard:
            needed, seconds = self._known.get(key, (0, 0.0))
            held = sum(found.encoder.nbytes for found in self._loaded.values())
            if key in self._loaded or not self._loaded or held + needed <= self._most_bytes:
                return 0.0
            return max(MIN_PATIENCE_SECONDS, 2 * seconds)

    def evict(self, key: str) -> None:
        """Let go of an encoder."""
        with self._guard:
            gone = self._loaded.pop(key, None)
        if gone is not None:
            log.info("model dropped", extra={"encoder": key})
            self._metrics.model_evictions.inc()
            self._show()
            del gone
            release_memory(self.device)

    def _fetch(self, key: str, spec: EncoderSpec) -> LoadedEncoder:
        needed, _ = self._known.get(key, (0, 0.0))
        self._make_room(needed)
        try:
            try:
                found = self._load(spec)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._make_room(self._most_bytes)
                found = self._load(spec)
        except StitchworkError as error:
            self._remember(key, error)
            raise
        except (OSError, ValueError, RuntimeError, ImportError, MemoryError) as error:
            told = _cannot_load(spec, error)
            self._remember(key, told)
            raise told from error
        self._known[key] = (found.encoder.nbytes, found.seconds)
        self._make_room(found.encoder.nbytes)
        with self._guard:
            self._loaded[key] = found
        self._metrics.model_loads.inc()
        self._show()
        return found

    def _show(self) -> None:
        self._metrics.loaded_models.set(len(self.loaded()))
        self._metrics.loaded_model_bytes.set(self.nbytes())

    def _remember(self, key: str, error: StitchworkError) -> None:
        with self._guard:
            self._failed[key] = (time.monotonic() + FAILED_SECONDS, error)

    def _make_room(self, needed: int) -> None:
        """Let go of those that were not used for longest, until there is room."""
        while self.nbytes() + needed > self._most_bytes:
            with self._guard:
                if not self._loaded:
                    return
                oldest = min(self._loaded, key=lambda key: self._loaded[key].used)
            self.evict(oldest)

    def _load(self, spec: EncoderSpec) -> LoadedEncoder:
        began = time.perf_counter()
        encoder = self._create(spec)
        batcher = Batcher(encoder, self._metrics)
        sample = encoder.prepare([_sample(spec)], truncate=True)
        batcher.embed(sample, 1)
        if self.device.type == "cpu":
            batcher.most = self._tuned.get(encoder_key(spec)) or batcher.tune(sample)
            self._tuned[encoder_key(spec)] = batcher.most
        seconds = time.perf_counter() - began
        log.info("model loaded", extra={"model": spec.model, "seconds": round(seconds, 2)})
        return LoadedEncoder(encoder, batcher, seconds, time.monotonic())

    def _create(self, spec: EncoderSpec) -> Encoder:
        # Each of these libraries takes seconds to import and a hundred megabytes of memory: a
        # worker is ready without them, and one that serves only texts never loads that of images.
        files = self._files(spec)
        # Where models take turns, compiling one each time would take longer than it saves, and
        # the memory that the compiler keeps for each would add up.
        compile_models = self._compile_models and encoder_key(spec) not in self._known
        if isinstance(spec, TextEncoder):
            from stitchwork.models.transformers_encoder import TransformersEncoder

            return TransformersEncoder(
                spec,
                self.device,
                files,
                self._max_tokens,
                compile_models=compile_models,
                cuda_graphs=self._cuda_graphs,
            )
        from stitchwork.models.timm_encoder import TimmEncoder

        return TimmEncoder(
            spec,
            self.device,
            files,
            self._max_pixels,
            compile_models=compile_models,
            cuda_graphs=self._cuda_graphs,
        )

    def pin(self, spec: EncoderSpec) -> EncoderSpec:
        """The same encoder at the commit that its revision means now; a local one as it is.

        Raises:
            InvalidInputError: If the spec is wrong, or names what is not allowed.
            JobFailedError: If the hub cannot be asked.
        """
        if _local(spec) or is_pinned(spec.revision):
            return spec
        folder = self._hub.folder(_hub_id(spec), spec.revision)
        return spec.model_copy(update={"revision": folder.name})

    def _files(self, spec: EncoderSpec) -> Path:
        """The folder, or for images the weights file, that a model is loaded from."""
        named = _local(spec)
        if named is not None:
            return self._allowed(named)
        folder = self._hub.folder(_hub_id(spec), spec.revision)
        return folder if isinstance(spec, TextEncoder) else folder / "model.safetensors"

    def _allowed(self, named: str) -> Path:
        """Refuse local files outside the roots, without saying whether they exist."""
        path = Path(named).expanduser().resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise InvalidInputError(
                "local models are read only from the folders of the worker's machine that "
                "model_roots (STITCHWORK_MODEL_ROOTS) names",
                code=ErrorCode.PATH_NOT_ALLOWED,
            )
        return path


def _local(spec: EncoderSpec) -> str | None:
    """What the spec names on this machine; None if it means a model of the hub."""
    if isinstance(spec, ImageEncoder):
        return spec.weights
    model = spec.model
    is_path = model.startswith(("/", ".", "~")) or "\\" in model or ".." in model
    return model if is_path or Path(model).exists() or model.count("/") > 1 else None


def _hub_id(spec: EncoderSpec) -> str:
    if isinstance(spec, TextEncoder):
        return spec.model
    from stitchwork.models.timm_encoder import timm_hub_id

    return timm_hub_id(spec)


def _sample(spec: EncoderSpec) -> Item:
    if isinstance(spec, TextEncoder):
        return SAMPLE_TEXT
    return _PIXEL


def _cannot_load(spec: EncoderSpec, error: Exception) -> JobFailedError:
    return JobFailedError(
        f"{spec.model} cannot be loaded: {type(error).__name__}", code=ErrorCode.LOAD_FAILED
    )


_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ff"
    "ff3f0005fe02fe0def46b80000000049454e44ae426082"
)
"""A PNG file of one white pixel."""
