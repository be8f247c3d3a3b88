"""The cache of loaded encoders."""

from pathlib import Path

import pytest
import torch

from stitchwork.errors import JobFailedError
from stitchwork.models.encoder import resolve_device
from stitchwork.models.encoder_cache import MIN_PATIENCE_SECONDS, EncoderCache
from stitchwork.models.memory import device_memory_bytes
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.resources import ImageEncoder, TextEncoder, encoder_key
from tests.support.memory import resident

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_efficientnet_lite("tf_efficientnet_lite0", tmp_path_factory.mktemp("lite"))


def test_the_least_recently_used_encoder_is_evicted(weights: Path) -> None:
    specs = [
        ImageEncoder(model="tf_efficientnet_lite0", weights=str(weights), input_size=size)
        for size in (32, 64, 96)
    ]
    keys = [encoder_key(spec) for spec in specs]
    roots = [weights.parent]
    size = EncoderCache("cpu", roots, offline=True).get(specs[0]).encoder.nbytes
    encoders = EncoderCache("cpu", roots, offline=True, memory_bytes=int(2.5 * size))
    for i in (0, 1, 0, 2):
        encoders.get(specs[i])
    assert set(encoders.loaded()) == {keys[0], keys[2]}
    assert encoders.nbytes() == 2 * size
    assert encoders.patience(keys[0]) == 0
    assert encoders.patience(keys[1]) >= MIN_PATIENCE_SECONDS, "another encoder would be evicted"
    text = TextEncoder(model=str(minilm_folder()))
    encoders = EncoderCache("cpu", [minilm_folder()], offline=True, memory_bytes=1)
    assert encoders.get(text) is encoders.get(text), (
        "an encoder larger than the limit is still loaded"
    )


def test_an_encoder_that_cannot_be_loaded_is_not_tried_again_at_once(tmp_path: Path) -> None:
    encoders = EncoderCache("cpu", [tmp_path], offline=True)
    spec = TextEncoder(model=str(tmp_path))
    with pytest.raises(JobFailedError) as first:
        encoders.get(spec)
    with pytest.raises(JobFailedError) as second:
        encoders.get(spec)
    assert first.value is second.value


def test_devices_are_resolved_and_have_memory() -> None:
    assert resolve_device("cpu", 3) == torch.device("cpu")
    assert resolve_device("cuda:1", 3) == torch.device("cuda", 1)
    assert device_memory_bytes(torch.device("cpu")) > 1 << 30


@pytest.mark.drills
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_returns_after_two_hundred_loads(weights: Path) -> None:
    encoders = EncoderCache("cpu", [weights.parent], offline=True, memory_bytes=1)
    specs = [
        ImageEncoder(model="tf_efficientnet_lite0", weights=str(weights), input_size=size)
        for size in (32, 64)
    ]
    resident_bytes = []
    for cycle in range(200):
        encoders.get(specs[cycle % 2])
        assert len(encoders.loaded()) == 1
        if cycle in (20, 199):
            resident_bytes.append(resident())
    assert resident_bytes[1] - resident_bytes[0] < 0.1 * resident_bytes[0], resident_bytes
