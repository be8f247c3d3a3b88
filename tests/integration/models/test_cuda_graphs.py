"""Batches that are padded for recordings: their rows stay the same, whatever recording makes of it.

What records needs a GPU, and is not tested.
"""

import logging
from collections.abc import Callable, Sequence

import pytest
import torch

from stitchwork.models.cuda_graphs import ROWS, TOKENS, CudaGraphPass, pad
from stitchwork.models.encoder import inference_mode
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.openvino_backend import ForwardPass
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import Item, TextEncoder

TEXTS: list[Item] = [f"{'word ' * n}and so on" for n in range(1, 40, 4)]
Played = Callable[[ForwardPass, Sequence[torch.Tensor]], ForwardPass]


def anew(module: ForwardPass, inputs: Sequence[torch.Tensor]) -> ForwardPass:
    """A recording that computes it again, as a replay does."""
    return module


def wrong(module: ForwardPass, inputs: Sequence[torch.Tensor]) -> ForwardPass:
    return lambda *given: module(*given) * 2


def refused(module: ForwardPass, inputs: Sequence[torch.Tensor]) -> ForwardPass:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("count", range(1, ROWS[-1] + 1))
def test_few_sizes_are_left(count: int) -> None:
    for length in (1, TOKENS - 1, TOKENS, TOKENS + 1):
        ids = torch.arange(1, count * length + 1).reshape(count, length)
        found = pad(ids, 512)
        assert len(found) in ROWS
        assert len(found) < 2 * count
        assert found.shape[1] % TOKENS == 0
        assert found.shape[1] - length < TOKENS
        assert torch.equal(found[:count, :length], ids)
        assert not found[:, length:].any()
        assert torch.equal(found[count:, :length], ids[:1].expand(len(found) - count, length))
    pixels = torch.rand(count, 3, 5, 7)
    assert torch.equal(pad(pixels, 0)[:count], pixels)
    assert pad(pixels, 0).shape[1:] == pixels.shape[1:]


def test_no_token_stands_where_a_model_has_no_place() -> None:
    assert pad(torch.ones(1, 70, dtype=torch.int64), 77).shape == (1, 77)
    assert pad(torch.ones(1, 77, dtype=torch.int64), 77).shape == (1, 77)
    assert pad(torch.ones(1, 60, dtype=torch.int64), 77).shape == (1, 64)


@pytest.mark.models
@pytest.mark.parametrize("record", [anew, wrong, refused])
def test_rows_of_a_real_model_stay_the_same(
    record: Played, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stitchwork.models.cuda_graphs")
    catalog = EncoderCache("cpu", [minilm_folder()], offline=True, compile_models=False)
    encoder = catalog.get(TextEncoder(model=str(minilm_folder()))).encoder
    plain: ForwardPass = encoder._pass  # type: ignore[attr-defined]
    inputs = encoder.prepare(TEXTS).inputs
    with inference_mode(encoder.device):
        expected = {n: encoder.forward(inputs[:n]) for n in (1, 3, 8, 10)}
        encoder._pass = CudaGraphPass(plain, "m", 256, record)  # type: ignore[attr-defined]
        for _ in range(2):
            for count, rows in expected.items():
                torch.testing.assert_close(encoder.forward(inputs[:count]), rows)
    told = {"anew": "recorded", "wrong": "recorded wrongly", "refused": "not recorded"}
    # Once for each of three sizes; ten rows are too many.
    assert [record.message for record in caplog.records] == [told[record.__name__]] * 3
