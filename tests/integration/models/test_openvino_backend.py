"""Compiled models: they are used if their rows agree with torch's, and torch is used if not."""

import logging
import sys
from pathlib import Path

import pytest
import torch

from stitchwork.evaluation.image_datasets import digits
from stitchwork.models import openvino_backend
from stitchwork.models.encoder import Encoder
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.openvino_backend import compile_forward, trace
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.models.timm_models import load_timm_model
from stitchwork.models.transformers_encoder import TransformersEncoder
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
    spec = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(weights), **more}
    return ImageEncoder.model_validate(spec)


def encoder_cache(weights: Path, *, compile_models: bool) -> EncoderCache:
    roots = [minilm_folder(), weights.parent]
    return EncoderCache("cpu", roots, offline=True, compile_models=compile_models)


def rows(encoder: Encoder, items: list[Item]) -> torch.Tensor:
    with torch.inference_mode():
        return encoder.forward(encoder.prepare(items).inputs)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The logged events of compiling, without those of libraries."""
    return [record.message for record in caplog.records if record.name == openvino_backend.__name__]


@pytest.mark.parametrize(
    "more",
    [{}, {"pooling": "cls"}, {"pooling": "last", "layer": 3}, {"layer": 0, "normalize": True}],
)
def test_compiled_text_encoders_agree_with_torch(
    weights: Path, more: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    _check_agreement(weights, text(**more), TEXTS, caplog)


@pytest.mark.parametrize("more", [{}, {"input_size": 96, "normalize": True}])
def test_compiled_image_encoders_agree_with_torch(
    weights: Path, more: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    _check_agreement(weights, image(weights, **more), list(digits().train[:3]), caplog)


def _check_agreement(
    weights: Path, spec: EncoderSpec, items: list[Item], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stitchwork.models.openvino_backend")
    compiled = encoder_cache(weights, compile_models=True).get(spec).encoder
    assert events(caplog) == ["model compiled"]
    plain = encoder_cache(weights, compile_models=False).get(spec).encoder
    assert events(caplog) == ["model compiled"]
    expected = rows(plain, items)
    for count in (1, 2, 3):
        actual = rows(compiled, items[:count])
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, expected[:count], rtol=1e-4, atol=1e-5)


class RowCounting(torch.nn.Module):
    """Tracing takes its number of rows for a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * len(x)


class Unsupported(torch.nn.Module):
    """Uses an operation that the compiler does not support."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.special.bessel_j0(x)
        return result


@pytest.mark.parametrize(
    ("module", "reason"),
    [(RowCounting(), "results differ by"), (Unsupported(), "OpConversionFailure")],
)
def test_torch_is_used_if_compiling_fails_or_changes_results(
    module: torch.nn.Module, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    samples = [(torch.rand(n, 4),) for n in (2, 3)]
    assert compile_forward(module, "m", samples) is module
    assert events(caplog) == ["model compilation failed"]
    (record,) = (record for record in caplog.records if record.name == openvino_backend.__name__)
    assert reason in record.reason  # type: ignore[attr-defined]


def test_trace_converts_a_module_and_leaves_loggers_enabled() -> None:
    enabled = logging.getLogger("stitchwork.test")
    module = torch.nn.Linear(4, 2).eval()
    model = trace(module, (torch.rand(3, 4),))
    assert (len(model.inputs), len(model.outputs)) == (1, 1)
    assert not enabled.disabled
    assert logging.root.manager.disable == logging.NOTSET


def test_torch_is_used_if_the_compiler_is_not_installed() -> None:
    module = torch.nn.Linear(4, 2)
    samples = [(torch.rand(2, 4),)]
    assert compile_forward(module, "m", samples, package="no_such_compiler") is module
    assert compile_forward(module, "m", samples) is not module


def test_openvino_does_not_report_its_use(weights: Path) -> None:
    encoder_cache(weights, compile_models=True).get(text())
    assert sys.modules["openvino_telemetry"] is None
    assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)


def test_models_for_longer_texts_are_not_compiled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stitchwork.models.openvino_backend")
    cpu, folder = torch.device("cpu"), minilm_folder()
    TransformersEncoder(text(), cpu, folder, max_compiled_length=100)
    assert not events(caplog)
    TransformersEncoder(text(max_length=100), cpu, folder, max_compiled_length=100)
    assert events(caplog) == ["model compiled"]


def test_clearing_traced_classes_frees_their_memory(weights: Path) -> None:
    model = load_timm_model(image(weights), weights).eval()
    samples = [(torch.rand(n, 3, 64, 64),) for n in (2, 1)]

    def compile_once() -> None:
        assert compile_forward(model, "m", samples) is not model

    compile_once()
    before = private()
    for _ in range(4):
        compile_once()
    # Without clear_traced_classes torch would keep 13 MB each time.
    assert private() - before < 26 * MB


def test_an_evicted_model_is_not_compiled_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stitchwork.models.openvino_backend")
    encoders = EncoderCache("cpu", [minilm_folder()], offline=True)
    before = rows(encoders.get(text()).encoder, TEXTS)
    encoders.evict(encoders.loaded()[0])
    torch.testing.assert_close(
        rows(encoders.get(text()).encoder, TEXTS), before, rtol=1e-4, atol=1e-5
    )
    assert events(caplog) == ["model compiled"]
