"""From a spec to a loaded model: once, on demand, and only from where models may come."""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from service.errors import InvalidInput, StitchworkError, WorkFailed
from service.geometry.heads import Classifier
from service.models.base import Encoder, pick_device
from service.models.image import TimmEncoder, image_classifier
from service.models.text import TransformersEncoder, text_classifier
from service.records import EncoderSpec, ImageEncoder, Item, TextEncoder, encoder_key

log = logging.getLogger(__name__)


class Catalog:
    """The encoders that this worker has loaded.

    Args:
        device: Name of the device they run on.
        roots: Folders that local model files may be read from.
        offline: Never ask a hub.
    """

    def __init__(self, device: str, roots: Sequence[Path], offline: bool) -> None:
        self.device = pick_device(device)
        self._roots = tuple(root.expanduser().resolve() for root in roots)
        self._offline = offline
        self._guard = threading.Lock()
        self._loaded: dict[str, Encoder] = {}

    def get(self, spec: EncoderSpec) -> Encoder:
        """The encoder of a spec, loaded and warmed up if it is not yet.

        Raises:
            InvalidInput: If the spec is wrong, or names files outside the allowed folders.
            WorkFailed: If the model cannot be loaded.
        """
        key = encoder_key(spec)
        with self._guard:
            if key not in self._loaded:
                self._loaded[key] = self._load(spec)
            return self._loaded[key]

    def classifier(self, spec: EncoderSpec) -> tuple[Classifier, list[str]]:
        """The classifier of a pretrained model, and its labels.

        Raises:
            InvalidInput: If it has none that can be taken out.
            WorkFailed: If the model cannot be loaded.
        """
        self._allow(spec)
        try:
            if isinstance(spec, TextEncoder):
                return text_classifier(spec, offline=self._offline)
            return image_classifier(spec, offline=self._offline)
        except (OSError, ValueError, RuntimeError) as error:
            raise _cannot_load(spec, error) from error

    def loaded(self) -> list[str]:
        """The keys of the loaded encoders."""
        with self._guard:
            return list(self._loaded)

    def evict(self, spec: EncoderSpec) -> None:
        """Let go of an encoder."""
        with self._guard:
            self._loaded.pop(encoder_key(spec), None)

    def _load(self, spec: EncoderSpec) -> Encoder:
        self._allow(spec)
        began = time.perf_counter()
        try:
            found: Encoder = (
                TransformersEncoder(spec, self.device, offline=self._offline)
                if isinstance(spec, TextEncoder)
                else TimmEncoder(spec, self.device, offline=self._offline)
            )
            found.embed(found.prepare([_sample(spec)], truncate=True), 1)
        except StitchworkError:
            raise
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise _cannot_load(spec, error) from error
        seconds = round(time.perf_counter() - began, 2)
        log.info("model loaded", extra={"model": spec.model, "seconds": seconds})
        return found

    def _allow(self, spec: EncoderSpec) -> None:
        """Refuse local files outside the roots, without saying whether they exist."""
        named = spec.weights if isinstance(spec, ImageEncoder) else _local(spec.model)
        if named is None:
            return
        path = Path(named).expanduser().resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise InvalidInput(
                "local models are read only from the folders that model_roots names",
                code="path-not-allowed",
            )


def _local(model: str) -> str | None:
    """The model's name if it means a folder of this machine, as opposed to a hub id."""
    is_path = model.startswith(("/", ".", "~")) or "\\" in model or ".." in model
    return model if is_path or Path(model).exists() or model.count("/") > 1 else None


def _sample(spec: EncoderSpec) -> Item:
    if isinstance(spec, TextEncoder):
        return "warm up"
    return _PIXEL


def _cannot_load(spec: EncoderSpec, error: Exception) -> WorkFailed:
    return WorkFailed(f"{spec.model} cannot be loaded: {type(error).__name__}", code="load-failed")


_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ff"
    "ff3f0005fe02fe0def46b80000000049454e44ae426082"
)
"""A PNG file of one white pixel."""
