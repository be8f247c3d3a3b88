"""Padding of batches to the sizes of captured CUDA graphs."""

import pytest
import torch

from stitchwork.models.cuda_graphs import BATCH_SIZES, TOKEN_MULTIPLE, pad


@pytest.mark.parametrize("count", range(1, BATCH_SIZES[-1] + 1))
def test_padding_leaves_few_sizes(count: int) -> None:
    for length in (1, TOKEN_MULTIPLE - 1, TOKEN_MULTIPLE, TOKEN_MULTIPLE + 1):
        ids = torch.arange(1, count * length + 1).reshape(count, length)
        padded = pad(ids, 512)
        assert len(padded) in BATCH_SIZES
        assert len(padded) < 2 * count
        assert padded.shape[1] % TOKEN_MULTIPLE == 0
        assert padded.shape[1] - length < TOKEN_MULTIPLE
        assert torch.equal(padded[:count, :length], ids)
        assert not padded[:, length:].any()
        assert torch.equal(padded[count:, :length], ids[:1].expand(len(padded) - count, length))
    pixels = torch.rand(count, 3, 5, 7)
    assert torch.equal(pad(pixels, 0)[:count], pixels)
    assert pad(pixels, 0).shape[1:] == pixels.shape[1:]


def test_padding_does_not_exceed_the_maximum_length() -> None:
    assert pad(torch.ones(1, 70, dtype=torch.int64), 77).shape == (1, 77)
    assert pad(torch.ones(1, 77, dtype=torch.int64), 77).shape == (1, 77)
    assert pad(torch.ones(1, 60, dtype=torch.int64), 77).shape == (1, 64)
