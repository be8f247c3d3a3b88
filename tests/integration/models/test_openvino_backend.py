"""Passes compiled for a CPU: that they are taken, agree with torch's, and give way where not."""

import logging
import sys
from pathlib import Path

import pytest
import torch

from stitchwork.evaluation.image_datasets import digits
from stitchwork.models import openvino_backend
from stitchwork.models.encoder import Encoder
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.openvino_backend import compile_if_faster
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.models.timm_encoder import load
from stitchwork.resources import EncoderSpec, ImageEncoder, Item, TextEncoder
from tests.support.memory import MB, private

pytestmark = pytest.mark.models

TEXTS: list[Item] = ["a", "two words", "a much longer text, padded less than the others are " * 9]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_efficientnet_lite("tf_efficientnet_lite0", tmp_path_factory.mktemp("weights"))


def text(**more: object) -> TextEncoder:
    return TextEncoder.model_validate({"model": str(minilm_folder()), **more})


def image(weights: Path, **more: object) -> ImageEncoder:
    told = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(weights), **more}
    return ImageEncoder.model_validate(told)


def catalog(weights: Path, *, compile_models: bool) -> EncoderCache:
    roots = [minilm_folder(), weights.parent]
    return EncoderCache("cpu", roots, offline=True, compile_models=compile_models)


def rows(encoder: Encoder, items: list[Item]) -> torch.Tensor:
    with torch.inference_mode():
        return encoder.forward(encoder.prepare(items).inputs)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of compiling; the libraries log too."""
    return [record.message for record in caplog.records if record.name == openvino_backend.__name__]


@pytest.mark.parametrize(
    "more",
    [{}, {"pooling": "cls"}, {"pooling": "last", "layer": 3}, {"layer": 0, "normalize": True}],
)
def test_texts_agree(
    weights: Path, more: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    _agree(weights, text(**more), TEXTS, caplog)


@pytest.mark.parametrize("more", [{}, {"input_size": 96, "normalize": True}])
def test_images_agree(
    weights: Path, more: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    _agree(weights, image(weights, **more), list(digits().train[:3]), caplog)


def _agree(
    weights: Path, spec: EncoderSpec, items: list[Item], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stitchwork.models.openvino_backend")
    found = catalog(weights, compile_models=True).get(spec).encoder
    assert said(caplog) == ["compiled"]
    plain = catalog(weights, compile_models=False).get(spec).encoder
    assert said(caplog) == ["compiled"]
    expected = rows(plain, items)
    for count in (1, 2, 3):
        found_rows = rows(found, items[:count])
        assert found_rows.dtype == torch.float32
        torch.testing.assert_close(found_rows, expected[:count], rtol=1e-4, atol=1e-5)


class Counting(torch.nn.Module):
    """Its number of rows is a constant to whoever traces it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * len(x)


class Unknown(torch.nn.Module):
    """Asks for what the compiler does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.special.bessel_j0(x)
        return found


@pytest.mark.parametrize(
    ("module", "told"), [(Counting(), "compiled wrongly"), (Unknown(), "not compiled")]
)
def test_what_cannot_be_had_or_trusted_is_not_taken(
    module: torch.nn.Module, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    samples = [(torch.rand(n, 4),) for n in (2, 3)]
    assert compile_if_faster(module, "m", samples) is module
    assert said(caplog) == [told]


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_backend, "find_spec", lambda _: None)
    module = torch.nn.Linear(4, 2)
    assert compile_if_faster(module, "m", [(torch.rand(2, 4),)]) is module


def test_nothing_calls_home(weights: Path) -> None:
    catalog(weights, compile_models=True).get(text())
    assert sys.modules["openvino_telemetry"] is None
    assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)


def test_longer_texts_than_are_tried_are_not_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stitchwork.models.transformers_encoder.TRIED_LENGTH", 100)
    caplog.set_level(logging.INFO, "stitchwork.models.openvino_backend")
    found = EncoderCache("cpu", [minilm_folder()], offline=True)
    found.get(text())
    assert not said(caplog)
    found.get(text(max_length=100))
    assert said(caplog) == ["compiled"]


def test_models_that_come_and_go_leave_nothing(weights: Path) -> None:
    model = load(image(weights), weights).eval()
    samples = [(torch.rand(n, 3, 64, 64),) for n in (2, 1)]

    def again() -> None:
        assert compile_if_faster(model, "m", samples) is not model

    again()
    before = private()
    for _ in range(4):
        again()
    # What torch traced, left behind, would be 13 MB each time.
    assert private() - before < 26 * MB


def test_a_model_that_comes_back_is_not_compiled_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stitchwork.models.openvino_backend")
    found = EncoderCache("cpu", [minilm_folder()], offline=True)
    before = rows(found.get(text()).encoder, TEXTS)
    found.evict(found.loaded()[0])
    torch.testing.assert_close(rows(found.get(text()).encoder, TEXTS), before, rtol=1e-4, atol=1e-5)
    assert said(caplog) == ["compiled"]
