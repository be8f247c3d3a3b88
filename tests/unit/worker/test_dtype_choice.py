"""The choice of a data type, by comparison with float32 on a sample of the anchors."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from stitchwork.models.batching import Batcher
from stitchwork.models.encoder import PreparedInputs
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.resources import DtypeChoice, EncoderSpec, Item, Modality, TextEncoder
from stitchwork.worker.dtype_choice import SAMPLE, choose_dtype, sample_indices

TEXTS = [f"text {i}" for i in range(20)]
ROWS = np.random.default_rng(0).normal(size=(len(TEXTS), 16)).astype(np.float32)


class NoisyEncoder:
    """Embeds each of `TEXTS` by a row of its own, with noise."""

    modality: Modality = "text"
    nbytes = 0
    dim = 16
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, noise: float) -> None:
        self._noise = noise

    def prepare(
        self,
        items: Sequence[Item],
        *,
        truncate: bool | None = None,
        input_type: str | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> PreparedInputs:
        return PreparedInputs([torch.tensor([TEXTS.index(str(item))]) for item in items])

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = torch.from_numpy(ROWS)[torch.cat(list(inputs))]
        return rows + self._noise * rows.roll(1, dims=1)


class Loads:
    """Loads encoders whose rows in half precision have noise."""

    def __init__(self, noise: float) -> None:
        self._noise = noise
        self.dtypes: list[str] = []

    def __call__(self, spec: EncoderSpec, *, prove: bool = False) -> LoadedEncoder:
        assert prove
        self.dtypes.append(spec.dtype)
        encoder = NoisyEncoder(0 if spec.dtype == "float32" else self._noise)
        return LoadedEncoder(encoder, Batcher(encoder), 0.0)


@pytest.fixture
def encoders() -> Iterator[EncoderCache]:
    """The cache of a worker that computes bfloat16 faster than float32."""
    cache = EncoderCache("cpu", (), offline=True)
    cache.preferred_dtype = "bfloat16"
    yield cache
    cache.close()


@pytest.mark.parametrize(
    ("dtype", "declared", "noise", "expected"),
    [
        ("auto", "auto", 1e-3, "bfloat16"),
        ("auto", "auto", 0.1, "float32"),
        # It was chosen when the space was registered first.
        ("bfloat16", "auto", 0.1, "float32"),
        ("bfloat16", "bfloat16", 0.1, "bfloat16"),
        ("float16", "float16", 1e-3, "float16"),
    ],
)
def test_dtype_is_chosen_by_its_rows_and_the_comparison_is_returned(
    encoders: EncoderCache, dtype: DtypeChoice, declared: str, noise: float, expected: str
) -> None:
    load = Loads(noise)
    spec = TextEncoder(model="words", dtype=dtype)
    chosen, precision = choose_dtype(spec, declared, lambda: TEXTS, encoders, load, lambda: None)
    assert chosen == spec.model_copy(update={"dtype": expected})
    compared = "float16" if dtype == "float16" else "bfloat16"
    assert load.dtypes == ["float32", compared]
    assert precision is not None
    assert (precision.dtype, precision.rows) == (compared, len(TEXTS))
    assert (precision.min_cosine >= 0.9999) == (noise < 0.01)


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_float32_is_not_compared(dtype: DtypeChoice) -> None:
    encoders = EncoderCache("cpu", (), offline=True, compile_models=False)
    load = Loads(0.0)
    spec = TextEncoder(model="words", dtype=dtype)
    chosen, precision = choose_dtype(spec, dtype, lambda: TEXTS, encoders, load, lambda: None)
    assert (chosen.dtype, precision, load.dtypes) == ("float32", None, [])


def test_sample_is_spread_over_all_anchors() -> None:
    assert sample_indices(3) == [0, 1, 2]
    indices = sample_indices(1000)
    assert (len(indices), indices[0], indices[-1]) == (SAMPLE, 0, 999)


@pytest.mark.parametrize("kind", ["transformers", "timm", "transformers-vision"])
def test_int8_is_refused_by_name(kind: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError, match="got int8, which is not offered: models"):
        TypeAdapter(EncoderSpec).validate_python({"kind": kind, "model": "m", "dtype": "int8"})
