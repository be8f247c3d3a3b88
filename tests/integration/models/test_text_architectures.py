"""Text models of many architectures: equal to their own library, one text at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitchwork.errors import StitchworkError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.resources import Floats, TextEncoder

pytestmark = pytest.mark.models

TEXTS = ["A b", "a much Longer text, which is padded far less", "two words and a few more"]
VOCABULARY = 200
END = 3


def embed(
    folder: Path, texts: list[str] = TEXTS, compile_models: bool = False, **fields: Any
) -> Floats:
    encoders = EncoderCache("cpu", [folder], offline=True, compile_models=compile_models)
    spec = encoders.pin(TextEncoder(model=str(folder), **fields))
    assert encoders.pin(spec) == spec
    loaded = encoders.get(spec)
    rows = loaded.batcher.embed(loaded.encoder.prepare(texts), 8).numpy()
    assert loaded.encoder.dim == rows.shape[1]
    return rows


def refusal(folder: Path, **fields: Any) -> str:
    with pytest.raises(StitchworkError) as raised:
        embed(folder, **fields)
    return raised.value.message


def assert_equal(actual: Floats, expected: Any) -> None:
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=1e-4, atol=2e-5)
