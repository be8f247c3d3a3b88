"""CUDA graphs: replay and fallback do not change rows. Capturing needs a GPU and is not tested."""

import logging
from collections.abc import Callable, Sequence

import pytest
import torch

from stitchwork.models import cuda_graphs
from stitchwork.models.cuda_graphs import CudaGraphPass
from stitchwork.models.encoder import inference_mode
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.openvino_backend import ForwardPass
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.models.transformers_encoder import TransformersEncoder
from stitchwork.resources import Item, TextEncoder

TEXTS: list[Item] = [f"{'word ' * n}and so on" for n in range(1, 40, 4)]
Capture = Callable[[ForwardPass, Sequence[torch.Tensor]], ForwardPass]


def exact(module: ForwardPass, inputs: Sequence[torch.Tensor]) -> ForwardPass:
    """A capture whose replay computes the pass again."""
    return module


def wrong(module: ForwardPass, inputs: Sequence[torch.Tensor]) -> ForwardPass:
    """A capture whose replay gives other rows."""
    return lambda *inputs: module(*inputs) * 2


def failing(module: ForwardPass, inputs: Sequence[torch.Tensor]) -> ForwardPass:
    """A capture that fails."""
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.models
@pytest.mark.parametrize("capture", [exact, wrong, failing])
def test_graphs_do_not_change_the_rows_of_a_real_model(
    capture: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, cuda_graphs.__name__)
    encoders = EncoderCache("cpu", [minilm_folder()], offline=True, compile_models=False)
    encoder = encoders.get(TextEncoder(model=str(minilm_folder()))).encoder
    assert isinstance(encoder, TransformersEncoder)
    plain = encoder.forward_pass
    inputs = encoder.prepare(TEXTS).inputs
    with inference_mode(encoder.device, encoder.dtype):
        expected = {n: encoder.forward(inputs[:n]) for n in (1, 3, 8, 10)}
        encoder.forward_pass = CudaGraphPass(plain, "m", 256, capture)
        for _ in range(2):
            for count, rows in expected.items():
                torch.testing.assert_close(encoder.forward(inputs[:count]), rows)
    event = "CUDA graph captured" if capture is exact else "CUDA graph capture failed"
    # Once for each of three sizes; ten rows are too many.
    messages = [r.message for r in caplog.records if r.name == cuda_graphs.__name__]
    assert messages == [event] * 3
