"""Loaded weights are in private memory: no later change of their file reaches them."""

import sys
from pathlib import Path

import numpy as np
import pytest

from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.resources import TextEncoder
from tests.support import planted_models
from tests.support.planted_models import PLANTED_MODELS, embed_samples, weights_files

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(sys.platform != "linux", reason="mappings are listed by Linux alone"),
]


COMPILED = ("transformer", "image-tower", "timm-file")
"""One kind of each encoder that is compiled: the others differ in how their files are read."""


def mapped_files(folder: Path) -> list[str]:
    """Files of a folder that are mapped into this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if f"{folder}/" in line]


@pytest.mark.parametrize(
    ("kind", "compiled"),
    [*((kind, False) for kind in PLANTED_MODELS), *((kind, True) for kind in COMPILED)],
)
def test_no_file_of_a_loaded_model_is_mapped_and_changes_of_it_do_not_reach_the_model(
    tmp_path: Path, kind: str, compiled: bool
) -> None:
    folder = PLANTED_MODELS[kind].save(tmp_path / "model")
    encoders = EncoderCache("cpu", [tmp_path], offline=True, compile_models=compiled)
    loaded = encoders.get(PLANTED_MODELS[kind].encoder(folder))
    # Compiled rows differ a little from those before.
    loaded.wait_until_compiled()
    assert mapped_files(folder) == []
    before = embed_samples(loaded)
    for weights in weights_files(folder):
        planted_models.overwrite(weights, bytes(weights.stat().st_size))
    np.testing.assert_array_equal(embed_samples(loaded), before)
    for weights in weights_files(folder):
        planted_models.cut_short(weights)
    np.testing.assert_array_equal(embed_samples(loaded), before)


def test_no_file_of_a_classifier_is_mapped_after_it_was_extracted(tmp_path: Path) -> None:
    folder = planted_models.save_text_classifier(tmp_path / "model")
    encoders = EncoderCache("cpu", [tmp_path], offline=True)
    extracted = encoders.classifier(TextEncoder(model=str(folder), pooling="cls"))
    assert mapped_files(folder) == []
    assert len(extracted.head.labels) == 2
