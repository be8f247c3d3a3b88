"""Loaded weights are in private memory: no later change of their file reaches them."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stitchwork.models.encoder_cache import EncoderCache, LoadedEncoder
from stitchwork.resources import EncoderSpec, Floats, ImageEncoder, TextEncoder
from tests.support import planted_models
from tests.support.images import file, picture
from tests.support.planted_models import TEXT_MODELS, TIMM_MODEL, WEIGHTS

pytestmark = pytest.mark.models

TEXTS = ["A b", "a much longer text than the others"]


def text_spec(folder: Path) -> EncoderSpec:
    return TextEncoder(model=str(folder))


def image_spec(folder: Path) -> EncoderSpec:
    return ImageEncoder(model=TIMM_MODEL, weights=str(folder))


def file_spec(folder: Path) -> EncoderSpec:
    return ImageEncoder(model=TIMM_MODEL, weights=str(folder / WEIGHTS))


MODELS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], EncoderSpec]]] = {
    **{name: (save, text_spec) for name, save in TEXT_MODELS.items()},
    "timm-folder": (planted_models.save_timm_model, image_spec),
    "timm-file": (planted_models.save_timm_model, file_spec),
}


def rows(loaded: LoadedEncoder) -> Floats:
    items = TEXTS if loaded.encoder.modality == "text" else [file(picture()), file(picture(9, 9))]
    return loaded.batcher.embed(loaded.encoder.prepare(items), 8).numpy()


def mapped_files(folder: Path) -> list[str]:
    """Files of a folder that are mapped into this process."""
    gc.collect()  # The library that saved a model may have mapped it.
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if f"{folder}/" in line]


@pytest.mark.skipif(sys.platform != "linux", reason="mappings are listed by Linux alone")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_no_file_of_a_loaded_model_is_mapped_and_changes_of_it_do_not_reach_the_model(
    tmp_path: Path, kind: str, compiled: bool
) -> None:
    save, spec_of = MODELS[kind]
    folder = save(tmp_path / "model")
    encoders = EncoderCache("cpu", [tmp_path], offline=True, compile_models=compiled)
    loaded = encoders.get(spec_of(folder))
    assert mapped_files(folder) == []
    before = rows(loaded)
    for weights in folder.rglob("*.safetensors"):
        planted_models.overwrite(weights, bytes(weights.stat().st_size))
    np.testing.assert_array_equal(rows(loaded), before)
    for weights in folder.rglob("*.safetensors"):
        planted_models.cut_short(weights)
    np.testing.assert_array_equal(rows(loaded), before)


@pytest.mark.skipif(sys.platform != "linux", reason="mappings are listed by Linux alone")
def test_no_file_of_a_classifier_is_mapped_after_it_was_extracted(tmp_path: Path) -> None:
    folder = planted_models.save_text_classifier(tmp_path / "model")
    encoders = EncoderCache("cpu", [tmp_path], offline=True)
    extracted = encoders.classifier(TextEncoder(model=str(folder), pooling="cls"))
    assert mapped_files(folder) == []
    assert extracted.classifier.n_classes == 2
