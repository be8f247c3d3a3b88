"""Compiled models: they are used if their rows agree with torch's, and torch is used if not."""

import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from stitchwork.errors import JobFailedError
from stitchwork.evaluation.image_datasets import digits
from stitchwork.geometry.diagnostics.row_precision import MIN_COSINE, row_precision
from stitchwork.models import openvino_backend
from stitchwork.models.compilation import CompilablePass
from stitchwork.models.compiled_files import CompiledFiles
from stitchwork.models.cpu_features import CPU_INFO, cpu_flags
from stitchwork.models.encoder import Encoder
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.openvino_backend import CompiledPass, compile_forward, trace
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.models.precision import cpu_dtypes
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


def compiled_encoder(encoders: EncoderCache, spec: EncoderSpec) -> Encoder:
    loaded = encoders.get(spec)
    loaded.wait_until_compiled()
    return loaded.encoder


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
    compiled = compiled_encoder(encoder_cache(weights, compile_models=True), spec)
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
    compiled_encoder(encoder_cache(weights, compile_models=True), text())
    assert sys.modules["openvino_telemetry"] is None
    assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)


def test_models_for_longer_texts_are_not_compiled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stitchwork.models.openvino_backend")
    cpu, folder = torch.device("cpu"), minilm_folder()
    longer = TransformersEncoder(text(), cpu, folder, max_compiled_length=100)
    assert not isinstance(longer.forward_pass, CompilablePass)
    short = TransformersEncoder(text(max_length=100), cpu, folder, max_compiled_length=100)
    assert isinstance(short.forward_pass, CompilablePass)


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
    before = rows(compiled_encoder(encoders, text()), TEXTS)
    encoders.evict(encoders.loaded()[0])
    torch.testing.assert_close(
        rows(compiled_encoder(encoders, text()), TEXTS), before, rtol=1e-4, atol=1e-5
    )
    assert events(caplog) == ["model compiled"]


def test_model_serves_by_torch_until_it_is_compiled(weights: Path) -> None:
    encoder = TransformersEncoder(text(), torch.device("cpu"), minilm_folder())
    forward = encoder.forward_pass
    assert isinstance(forward, CompilablePass)
    before = rows(encoder, TEXTS)
    thread = threading.Thread(target=forward.compile)
    thread.start()
    during = [rows(encoder, TEXTS)]
    while thread.is_alive():
        during.append(rows(encoder, TEXTS))
    thread.join()
    for actual in (*during, rows(encoder, TEXTS)):
        torch.testing.assert_close(actual, before, rtol=1e-4, atol=1e-5)
    assert isinstance(forward.current, CompiledPass)


def test_compiled_models_are_read_from_their_folder_by_workers_that_start_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stitchwork.models")

    def load() -> tuple[torch.Tensor, list[str]]:
        """The rows of a worker that starts, and what it logs of compiled models."""
        caplog.clear()
        files = CompiledFiles(tmp_path, 1 << 30)
        encoders = EncoderCache("cpu", [minilm_folder()], offline=True, compiled_files=files)
        result = rows(compiled_encoder(encoders, text()), TEXTS)
        encoders.close()
        return result, [
            f"{record.message} {getattr(record, 'cached', '')}".strip()
            for record in caplog.records
            if "compiled" in record.message
        ]

    compiled, events = load()
    (file,) = tmp_path.iterdir()
    assert events == ["model compiled False"]
    read, events = load()
    assert events == ["model compiled True"]
    torch.testing.assert_close(read, compiled, rtol=0, atol=0)
    size = file.stat().st_size
    file.write_bytes(b"no compiled model")
    repaired, events = load()
    assert events == ["compiled model ignored", "model compiled False"]
    torch.testing.assert_close(repaired, compiled, rtol=0, atol=0)
    assert abs(file.stat().st_size - size) < 0.01 * size, "it is written anew"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_rows_in_bfloat16_are_near_those_in_float32_or_it_is_refused_by_name(
    weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stitchwork.models.openvino_backend")
    encoders = encoder_cache(weights, compile_models=True)
    spec = text(dtype="bfloat16")
    if "bfloat16" not in encoders.dtypes:
        with pytest.raises(JobFailedError, match="is to be computed in bfloat16"):
            encoders.get(spec)
        return
    plain = compiled_encoder(encoders, text())
    loaded = encoders.get(spec)
    inputs = plain.prepare(TEXTS)
    expected = encoders.get(text()).batcher.embed(inputs, 8).numpy()
    for _ in range(2):
        # By torch or, once it is compiled, by OpenVINO.
        actual = loaded.batcher.embed(inputs, 8)
        assert actual.dtype == torch.float32
        assert row_precision(actual.numpy(), expected).min_cosine >= MIN_COSINE
        loaded.wait_until_compiled()
    assert events(caplog) == ["model compiled", "model compiled"]
    assert not torch.equal(actual, torch.from_numpy(expected)), "they are computed in bfloat16"


def test_compiled_model_in_a_data_type_that_the_cpu_lacks_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = torch.nn.Linear(4, 2).eval()
    samples = [(torch.rand(n, 4),) for n in (2, 3)]
    compiled = compile_forward(module, "m", samples, dtype=torch.float16)
    assert (compiled is module) == ("float16" not in cpu_dtypes(cpu_flags(CPU_INFO)))
    assert (compiled is module) == (events(caplog) == ["model compilation failed"])


def test_models_are_traced_one_after_another() -> None:
    modules = [torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()).eval() for _ in range(8)]
    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(trace, m, (torch.rand(2, 3),)) for m in modules]:
            assert future.result() is not None
