"""Loads encoders on demand, each once, and only from allowed sources; evicts them by memory.

Before a loaded encoder is used, the state of its files is compared with that at the time when they
were read. An encoder whose files hold something else is loaded anew.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from cachetools import TTLCache

from stitchwork.errors import ErrorCode, JobFailedError, StitchworkError
from stitchwork.models.batching import Batcher
from stitchwork.models.compilation import BackgroundCompiler, CompilablePass
from stitchwork.models.compiled_files import CompiledFiles
from stitchwork.models.encoder import (
    MAX_PIXELS,
    MAX_TOKENS,
    Encoder,
    PreparedInputs,
    resolve_device,
)
from stitchwork.models.encoder_loader import (
    EncoderLoader,
    extract_classifier,
    in_float32,
    library_versions,
    pin_encoder,
    sample_inputs,
)
from stitchwork.models.file_tracker import FileTracker
from stitchwork.models.hub import Hub
from stitchwork.models.label_names import label_names
from stitchwork.models.load_errors import LOAD_ERRORS, convert_error
from stitchwork.models.load_results import ExtractedClassifier, LoadFailure
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.models.memory import (
    configure_allocator,
    device_memory_bytes,
    is_out_of_memory,
    release_memory,
)
from stitchwork.models.model_files import ModelFiles
from stitchwork.models.openvino_backend import PACKAGE, TRACING
from stitchwork.models.precision import check_dtype, device_dtypes, preferred_dtype
from stitchwork.resources import EncoderSpec, encoder_key
from stitchwork.telemetry import Metrics

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 15.0
"""An encoder that could not be loaded is not tried again for this long, unless its files change."""
MAX_FAILURES: Final = 1024
MIN_PATIENCE_SECONDS: Final = 1.0


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
        compiled_files: Keeps compiled models; None keeps none.
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
        compiled_files: CompiledFiles | None = None,
        cuda_graphs: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self.device = resolve_device(device, worker_index)
        if self.device.type == "cpu":
            configure_allocator()
        # cuDNN's convolutions in float32 otherwise round their inputs to 10 bits.
        torch.backends.cudnn.allow_tf32 = False
        self.dtypes = device_dtypes(self.device)
        compiles = compile_models and self.device.type == "cpu" and find_spec(PACKAGE) is not None
        self.preferred_dtype = preferred_dtype(self.device, self.dtypes, compiles=compiles)
        self._compiler = BackgroundCompiler(compiled_files or CompiledFiles(None, 0))
        self._loader = EncoderLoader(
            self.device,
            max_pixels=max_pixels,
            max_tokens=max_tokens,
            compile_models=compile_models,
            cuda_graphs=cuda_graphs,
        )
        self._files = ModelFiles(roots, Hub(hub_models, offline=offline))
        self._tracker = FileTracker(self._files)
        self._max_bytes = memory_bytes or device_memory_bytes(self.device) // 2
        self._loading = threading.Lock()
        # Released while an encoder is loading, so that others can read what is loaded.
        self._guard = threading.Lock()
        self._loaded: OrderedDict[str, LoadedEncoder] = OrderedDict()
        self._failures: TTLCache[str, LoadFailure] = TTLCache(MAX_FAILURES, RETRY_SECONDS)
        self._costs: dict[str, tuple[int, float]] = {}
        self._tuned: dict[str, int] = {}

    def get(self, spec: EncoderSpec, *, prove: bool = False) -> LoadedEncoder:
        """The encoder of a spec, loaded and warmed up if it is not yet, or its files have changed.

        Args:
            spec: The encoder.
            prove: Whether it must have been compared with its own library; one that was loaded
                without is loaded anew. Once a space of its files is ready, it is not needed.

        Raises:
            InvalidInputError: If the spec is invalid, or names files outside the allowed folders.
            JobFailedError: If the model cannot be loaded, or differs from its own library; it is
                not tried again for a while, unless its files change. Also if the device does not
                compute in its data type.
        """
        check_dtype(spec, self.device, self.dtypes)
        key = encoder_key(spec)
        with self._loading:
            with self._guard:
                loaded, failure = self._loaded.get(key), self._failures.get(key)
            if loaded is not None:
                is_unchanged = self._tracker.is_unchanged(spec, key, loaded.files_digest)
                if is_unchanged and (loaded.is_proven or not prove):
                    with self._guard:
                        self._loaded.move_to_end(key)
                    return loaded
                # It may be of another size, and is compiled as if never loaded before.
                self._costs.pop(key, None)
                self._tuned.pop(key, None)
                self.evict(key)
            elif failure is not None and self._fails_again(spec, failure):
                raise failure.error
            return self._load_into_memory(key, spec, prove)

    def close(self) -> None:
        """Compile nothing more."""
        self._compiler.close()

    def classifier(self, spec: EncoderSpec) -> ExtractedClassifier:
        """The classifier of a pretrained model.

        Raises:
            InvalidInputError: If the model has no classifier that can be extracted.
            JobFailedError: If the model cannot be loaded.
        """
        spec = in_float32(spec)
        try:
            with self._loading:
                head, snapshot = self._tracker.read(
                    spec, lambda: extract_classifier(spec, self._files.path(spec))
                )
        except LOAD_ERRORS as error:
            raise convert_error(spec, error) from error
        return ExtractedClassifier(head, snapshot.digest)

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
        try:
            return pin_encoder(spec, self._files)
        except LOAD_ERRORS as error:
            raise convert_error(spec, error) from error

    def _used_bytes(self) -> int:
        return sum(loaded.encoder.nbytes for loaded in self._loaded.values())

    def _fails_again(self, spec: EncoderSpec, failure: LoadFailure) -> bool:
        """Whether the files are those that could not be loaded a while ago."""
        if failure.snapshot is None:
            return True
        later = self._tracker.snapshot(spec, failure.snapshot)
        return later is not None and later.digest == failure.snapshot.digest

    def _load_into_memory(self, key: str, spec: EncoderSpec, prove: bool) -> LoadedEncoder:
        """Load an encoder, evicting others as needed, or remember that it cannot be loaded."""
        needed, _ = self._costs.get(key, (0, 0.0))
        self._evict_for(needed)
        try:
            try:
                loaded = self._load(key, spec, prove)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._evict_for(self._max_bytes)
                loaded = self._load(key, spec, prove)
        except StitchworkError as error:
            raise self._record_failure(key, spec, error) from error
        except LOAD_ERRORS as error:
            raise self._record_failure(key, spec, convert_error(spec, error)) from error
        self._costs[key] = (loaded.encoder.nbytes, loaded.seconds)
        self._evict_for(loaded.encoder.nbytes)
        with self._guard:
            self._loaded[key] = loaded
            self._failures.pop(key, None)
        self._metrics.model_loads.inc()
        self._update_gauges()
        return loaded

    def _update_gauges(self) -> None:
        self._metrics.loaded_models.set(len(self.loaded()))
        self._metrics.loaded_model_bytes.set(self.nbytes())

    def _record_failure(
        self, key: str, spec: EncoderSpec, error: StitchworkError
    ) -> StitchworkError:
        """Remember why an encoder cannot be loaded; the error names what changed in its files."""
        snapshot = self._tracker.snapshot(spec)
        changes = self._tracker.changes(spec, snapshot)
        if changes:
            error = JobFailedError(
                f"the files of {spec.model} changed since this worker loaded them ({changes}), and "
                f"{error.message}; restore them, or write valid ones and register the spaces of "
                "this encoder again",
                code=ErrorCode.LOAD_FAILED,
            )
        with self._guard:
            self._failures[key] = LoadFailure(error, snapshot)
        return error

    def _evict_for(self, needed: int) -> None:
        """Evict the least recently used encoders until so many bytes are free."""
        while self.nbytes() + needed > self._max_bytes:
            with self._guard:
                if not self._loaded:
                    return
                oldest = next(iter(self._loaded))
            self.evict(oldest)

    def _load(self, key: str, spec: EncoderSpec, prove: bool) -> LoadedEncoder:
        began = time.perf_counter()
        # Where models take turns, compiling one each time would take longer than it saves, and
        # the memory that the compiler keeps for each would add up.
        may_compile = key not in self._costs

        def load() -> Encoder:
            files = self._files.path(spec)
            with TRACING:
                return self._loader.load(spec, files, may_compile=may_compile, prove=prove)

        encoder, snapshot = self._tracker.read(spec, load)
        batcher = Batcher(encoder, self._metrics)
        sample = sample_inputs(spec, encoder)
        batcher.embed(sample, 1)
        tune = partial(self._tune, key, batcher, sample)
        compilation = None
        forward = getattr(encoder, "forward_pass", None)
        if isinstance(forward, CompilablePass):
            compilation = self._compiler.submit(forward, key, snapshot.digest, tune)
        elif self.device.type == "cpu":
            tune()
        seconds = time.perf_counter() - began
        log.info("model loaded", extra={"model": spec.model, "seconds": round(seconds, 2)})
        changes = self._tracker.changes(spec, snapshot)
        names = label_names(spec, self._files.path(spec))
        return LoadedEncoder(
            encoder,
            batcher,
            seconds,
            snapshot.digest,
            changes,
            prove,
            names,
            library_versions(spec),
            compilation,
        )

    def _tune(self, key: str, batcher: Batcher, sample: PreparedInputs) -> None:
        """Bound the batches of an encoder to the size of the lowest cost, measured once."""
        batcher.max_elements = self._tuned.get(key) or batcher.tune(sample)
        self._tuned[key] = batcher.max_elements
