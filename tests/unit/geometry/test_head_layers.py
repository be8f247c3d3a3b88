"""Layers of heads against the modules of torch and the Normalizer of scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import Normalizer
from torch import nn

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import Classifier
from stitchwork.geometry.head_layers import LAYER_TYPES, Layer, complete_layers
from tests.support.latent_spaces import ArrayLibrary

LINEAR = Layer("linear", {"weight": np.ones((3, 6), np.float32), "bias": np.zeros(3, np.float32)})


def rows() -> Any:
    return 3 * np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)


def numpy_state(module: nn.Module) -> dict[str, Any]:
    return {
        name: tensor.numpy()
        for name, tensor in module.state_dict().items()
        if name != "num_batches_tracked"
    }


def trained_batch_norm(**options: Any) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(6, **options)
    with torch.no_grad():
        for _ in range(5):
            norm(torch.randn(32, 6) * 4 + 2)
        if norm.affine:
            norm.weight.copy_(torch.linspace(0.5, 2, 6))
            norm.bias.copy_(torch.linspace(-1, 1, 6))
    return norm.eval()


def layer_norm(**options: Any) -> nn.LayerNorm:
    norm = nn.LayerNorm(6, **options)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(6))
    return norm


@pytest.mark.parametrize(
    ("kind", "module", "options"),
    [
        ("layer_norm", layer_norm(), {}),
        ("layer_norm", layer_norm(eps=0.5), {"eps": 0.5}),
        ("layer_norm", layer_norm(elementwise_affine=False), {}),
        ("layer_norm", layer_norm(bias=False), {}),
        ("batch_norm", trained_batch_norm(), {}),
        ("batch_norm", trained_batch_norm(eps=0.1), {"eps": 0.1}),
        ("batch_norm", trained_batch_norm(affine=False), {}),
        ("leaky_relu", nn.LeakyReLU(), {}),
        ("leaky_relu", nn.LeakyReLU(0.3), {"negative_slope": 0.3}),
        ("dropout", nn.Dropout(0.9).eval(), {}),
    ],
    ids=str,
)
def test_layer_equals_the_module_of_torch(
    lib: ArrayLibrary, kind: str, module: nn.Module, options: dict[str, float]
) -> None:
    own = Layer(kind, numpy_state(module), options)
    first, _ = complete_layers((own, LINEAR))
    x = rows()
    actual = lib.to_numpy(first.convert_arrays(lib.from_numpy).compute(lib.from_numpy(x)))
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_normalize_equals_the_normalizer_of_scikit_learn(lib: ArrayLibrary, norm: str) -> None:
    x = rows()
    x[3], x[4], x[5] = 0, x[4] * np.float32(1e-10), x[5] * np.float32(1e37)
    actual = lib.to_numpy(Layer("normalize", options={"norm": norm}).compute(lib.from_numpy(x)))
    expected = Normalizer(norm).fit_transform(x.astype(np.float64))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_layers_without_arrays_are_completed_with_ones_and_zeros() -> None:
    weight = np.ones((3, 6), np.float32)
    norm, linear, second = complete_layers(
        (Layer("layer_norm"), Layer("linear", {"weight": weight}), Layer("layer_norm"))
    )
    np.testing.assert_array_equal(norm.arrays["weight"], np.ones(6))
    np.testing.assert_array_equal(linear.arrays["bias"], np.zeros(3))
    np.testing.assert_array_equal(second.arrays["weight"], np.ones(3))
    assert complete_layers((Layer("layer_norm"),))[0].arrays == {}


ONES = np.ones(6, np.float32)
NORM = {"weight": ONES, "bias": ONES, "running_mean": ONES, "running_var": ONES}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Layer("conv"), "expected one of linear, .* got 'conv'"),
        (Layer("relu", {"weight": ONES}), "the arrays none of relu, got weight"),
        (Layer("layer_norm", {"weight": ONES}), "the arrays weight, bias of layer_norm"),
        (Layer("batch_norm", {"weight": ONES, "bias": ONES}), "running_mean, running_var"),
        (Layer("layer_norm", {"weight": ONES, "bias": ONES[:5]}), r"\(d,\), got"),
        (Layer("layer_norm", {"weight": ONES, "bias": ONES}, {"eps": -1}), "eps as a finite"),
        (Layer("layer_norm", {"weight": ONES, "bias": ONES}, {"norm": "l2"}), "got 'norm'"),
        (Layer("batch_norm", {**NORM, "running_var": -ONES}), "with a positive sum"),
        (Layer("normalize", options={"norm": "l3"}), "a norm of l1, l2, max, got 'l3'"),
        (Layer("leaky_relu", options={"negative_slope": np.nan}), "negative_slope as a finite"),
        (Layer("leaky_relu", options={"negative_slope": "a"}), "got 'a'"),
    ],
    ids=str,
)
def test_layer_that_is_not_valid_is_refused(layer: Layer, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as error:
        Classifier((layer, LINEAR))
    assert error.value.pointer == "/layers/0"


def test_layer_of_another_width_than_the_one_before_is_refused() -> None:
    norm = Layer("layer_norm", {"weight": ONES, "bias": ONES})
    with pytest.raises(InvalidInputError, match=r"layer 1: expected 3 inputs, .* got 6"):
        Classifier((LINEAR, norm))


def test_head_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one linear layer"):
        Classifier((Layer("layer_norm", {"weight": ONES, "bias": ONES}),))


def test_every_type_of_layer_has_defaults_for_its_options() -> None:
    for kind, layer_type in LAYER_TYPES.items():
        for name, default in layer_type.options.items():
            assert Layer(kind).option(name) == default
