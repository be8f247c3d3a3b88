"""Classifiers against torch.nn, and logits that would overflow."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import (
    MULTI_LABEL,
    REGRESSION,
    Classifier,
    expand_binary,
    logits,
    mlp,
    probabilities,
    scores,
)
from stitchwork.geometry.head_layers import ACTIVATIONS, Layer
from tests.support.latent_spaces import ArrayLibrary

MODULES: dict[str, nn.Module] = {
    "identity": nn.Identity(),
    "relu": nn.ReLU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "log_sigmoid": nn.LogSigmoid(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
}


def network(widths: Sequence[int], activation: str) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for i in range(len(widths) - 1):
        parts += [MODULES[activation]] if i else []
        parts.append(nn.Linear(widths[i], widths[i + 1]))
    return nn.Sequential(*parts)


def classifier(module: nn.Sequential, activation: str, lib: ArrayLibrary) -> Classifier:
    layers = [part for part in module if isinstance(part, nn.Linear)]
    return mlp(
        [(p.weight.detach().numpy(), p.bias.detach().numpy()) for p in layers], activation
    ).convert_arrays(lib.from_numpy)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [(6, 4), (6, 9, 4), (6, 9, 5, 3)])
def test_logits_equal_torch(lib: ArrayLibrary, activation: str, widths: tuple[int, ...]) -> None:
    module = network(widths, activation)
    head = classifier(module, activation, lib)
    x = 3 * np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    actual = lib.to_numpy(logits(head, lib.from_numpy(x)))
    with torch.no_grad():
        expected = module(torch.as_tensor(x)).numpy()
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=2e-6)
    np.testing.assert_array_equal(lib.to_numpy(head.logits(lib.from_numpy(x))), actual)
    assert (head.width, head.n_outputs) == (6, widths[-1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_equal_torch_on_any_number(
    lib: ArrayLibrary, activation: str, dtype: type
) -> None:
    x: NDArray[Any] = np.concatenate(
        [np.linspace(-12, 12, 2001), [-0.0, -1e30, 1e30, -1e4, 1e4, 1e-30, -3e38, 3e38]]
    ).astype(dtype)
    actual = lib.to_numpy(ACTIVATIONS[activation](lib.from_numpy(x)))
    expected = MODULES[activation](torch.as_tensor(x).to(torch.float64)).numpy()
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=5e-7)


@pytest.mark.parametrize("shape", [(20, 5), (1, 1), (0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_are_the_softmax(
    lib: ArrayLibrary, shape: tuple[int, int], dtype: type
) -> None:
    scores: NDArray[Any] = 10 * np.random.default_rng(0).normal(size=shape).astype(dtype)
    actual = lib.to_numpy(probabilities(lib.from_numpy(scores)))
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, scipy.special.softmax(scores, axis=1), rtol=2e-5, atol=1e-7)
    moved = lib.to_numpy(probabilities(lib.from_numpy(scores + dtype(64))))
    np.testing.assert_allclose(moved, actual, rtol=1e-4, atol=1e-6)


MAX = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1e30, 0, -1e30], [1, 0, 0]),
        ([MAX, -MAX, MAX], [0.5, 0, 0.5]),
        ([-MAX, -MAX, -MAX], [1 / 3] * 3),
        ([np.inf, 0, 0], [1, 0, 0]),
        ([-np.inf, 0, 0], [0, 0.5, 0.5]),
        ([-np.inf] * 3, [1 / 3] * 3),
        ([np.nan, -1e9, -1e9], [1, 0, 0]),
        ([np.nan] * 3, [1 / 3] * 3),
    ],
)
def test_probabilities_of_any_logits_are_finite(
    lib: ArrayLibrary, scores: list[float], expected: list[float]
) -> None:
    actual = lib.to_numpy(probabilities(lib.from_numpy(np.array([scores], np.float32))))
    np.testing.assert_allclose(actual, [expected], atol=1e-6)


@given(st.lists(st.floats(width=32), min_size=1, max_size=6))
def test_probabilities_sum_to_one(scores: list[float]) -> None:
    actual = probabilities(np.array([scores], np.float32))
    assert actual.min() >= 0
    assert actual.sum() == pytest.approx(1, abs=1e-6)


def test_rows_whose_logits_overflow_are_scored_by_direction(lib: ArrayLibrary) -> None:
    weight = np.array([[3.0, 1], [1, 3], [-2, -2]], np.float32)
    head = mlp(((weight, np.zeros(3, np.float32)),)).convert_arrays(lib.from_numpy)
    x = np.array([[1, 2], [3e38, 1e38], [1e38, 3e38], [-3e38, -3e38], [3e38, -3e38]], np.float32)
    actual = lib.to_numpy(logits(head, lib.from_numpy(x)))
    assert np.isfinite(actual).all()
    np.testing.assert_array_equal(actual[0], weight @ x[0])
    assert actual.argmax(axis=1).tolist() == [1, 0, 1, 2, 0]
    # The same best class as in float64, where nothing overflows.
    assert actual.argmax(axis=1).tolist() == (x.astype(np.float64) @ weight.T).argmax(1).tolist()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_of_any_row_and_weights_are_finite(lib: ArrayLibrary, activation: str) -> None:
    rng = np.random.default_rng(0)
    big = [
        (rng.choice([-3e38, 3e38], size=(n, m)).astype(np.float32), np.full(n, -3e38, np.float32))
        for n, m in ((7, 5), (3, 7))
    ]
    small = [(weight / np.float32(3e38), bias * 0) for weight, bias in big]
    rows = [np.zeros(5), np.ones(5), np.full(5, 3e38), np.full(5, np.inf), np.full(5, np.nan)]
    x = np.array(rows, np.float32)
    for layers in (big, small):
        head = mlp(layers, activation).convert_arrays(lib.from_numpy)
        assert np.isfinite(lib.to_numpy(logits(head, lib.from_numpy(x)))).all()


def test_logits_with_an_activation_for_each_layer_equal_torch(lib: ArrayLibrary) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 3)
    )
    layers = [part for part in module if isinstance(part, nn.Linear)]
    head = mlp(
        [(p.weight.detach().numpy(), p.bias.detach().numpy()) for p in layers],
        ("gelu", "tanh", "identity"),
    ).convert_arrays(lib.from_numpy)
    x = 3 * np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.as_tensor(x)).numpy()
    np.testing.assert_allclose(lib.to_numpy(logits(head, lib.from_numpy(x))), expected, atol=2e-6)


W, B = np.ones((4, 6), np.float32), np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("layers", "activation", "message", "pointer"),
    [
        ((), "relu", "at least one linear layer", "/layers"),
        (((W, B),), "swish", "relu, .* got 'swish'", "/activation"),
        (((W, B),), ("relu",), "expected 0 activations, .* of 1 layers, got 1", "/activation"),
        (((W, B), (W[:, :4], B)), ("relu", "swish"), "relu, .* got 'swish'", "/activation"),
        (((W, B), (W[:, :4], B)), ("relu", "tanh"), "expected 1 activations", "/activation"),
        (((B, B),), "relu", r"layer 0: expected weight \(out, in\) .* got \(4,\) and", "/layers/0"),
        (((W, W),), "relu", r"layer 0: .* got \(4, 6\) and \(4, 6\)", "/layers/0"),
        (((W, B[:3]),), "relu", r"got \(4, 6\) and \(3,\)", "/layers/0"),
        (((W[:, :0], B),), "relu", r"got \(4, 0\)", "/layers/0"),
        (((W, B), (W, B)), "relu", "layer 2: expected 4 inputs, .* got 6", "/layers/2"),
        (((W * np.nan, B),), "relu", "layer 0: expected finite weights", "/layers/0"),
        (((W, B), (W[:, :4], B + np.inf)), "relu", "layer 2: expected finite", "/layers/2"),
    ],
)
def test_classifier_with_mismatched_layers_is_refused(
    layers: tuple[Any, ...], activation: str | tuple[str, ...], message: str, pointer: str
) -> None:
    with pytest.raises(InvalidInputError, match=message) as error:
        mlp(layers, activation)
    assert error.value.pointer == pointer


@pytest.mark.parametrize("shape", [(3, 5), (6,), (3, 7)])
def test_rows_of_another_width_are_refused(lib: ArrayLibrary, shape: tuple[int, ...]) -> None:
    head = mlp(((W, B),)).convert_arrays(lib.from_numpy)
    with pytest.raises(InvalidInputError, match=r"shape \(n, 6\), got"):
        logits(head, lib.from_numpy(np.zeros(shape, np.float32)))


def test_logits_have_the_dtype_of_the_weights(lib: ArrayLibrary) -> None:
    head = mlp(((W, B),)).convert_arrays(lib.from_numpy)
    for dtype in (np.float16, np.float64, np.int64):
        actual = lib.to_numpy(logits(head, lib.from_numpy(np.ones((2, 6), dtype))))
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual, np.full((2, 4), 6))
    assert tuple(logits(head, lib.from_numpy(np.ones((0, 6), np.float32))).shape) == (0, 4)


@pytest.mark.parametrize("widths", [(6, 1), (6, 9, 1)])
def test_expanded_binary_classifier_has_the_sigmoid_as_its_softmax(
    lib: ArrayLibrary, widths: tuple[int, ...]
) -> None:
    head = classifier(network(widths, "relu"), "relu", lib)
    x = lib.from_numpy(3 * np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32))
    expanded = expand_binary(head)
    expected = scipy.special.expit(lib.to_numpy(logits(head, x))[:, 0])
    actual = lib.to_numpy(probabilities(logits(expanded, x)))
    assert (expanded.width, expanded.n_outputs) == (6, 2)
    np.testing.assert_allclose(actual, np.stack([1 - expected, expected], axis=1), atol=1e-6)
    with pytest.raises(InvalidInputError, match="single score, got 2"):
        expand_binary(expanded)


def test_expanded_binary_classifier_may_end_in_another_layer(lib: ArrayLibrary) -> None:
    linear = mlp(((W[:1], B[:1]),)).layers[0]
    head = Classifier((linear, Layer("tanh"))).convert_arrays(lib.from_numpy)
    x = lib.from_numpy(np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32))
    expected = scipy.special.expit(lib.to_numpy(logits(head, x))[:, 0])
    actual = lib.to_numpy(scores(expand_binary(head), x))
    np.testing.assert_allclose(actual[:, 1], expected, atol=1e-6)


def test_scores_of_a_multi_label_head_are_sigmoids(lib: ArrayLibrary) -> None:
    linear = mlp(((W, B + np.float32(0.5)),)).layers
    x = lib.from_numpy(np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32))
    for temperature in (1.0, 2.5):
        head = Classifier(linear, MULTI_LABEL, temperature).convert_arrays(lib.from_numpy)
        expected = scipy.special.expit(lib.to_numpy(logits(head, x)) / temperature)
        np.testing.assert_allclose(lib.to_numpy(head.scores(x)), expected, atol=1e-6)


def test_temperature_divides_the_logits_of_a_softmax(lib: ArrayLibrary) -> None:
    rng = np.random.default_rng(0)
    linear = mlp(((rng.normal(size=(3, 6)).astype(np.float32), B[:3]),)).layers
    x = lib.from_numpy(rng.normal(size=(20, 6)).astype(np.float32))
    head = Classifier(linear, temperature=3.0).convert_arrays(lib.from_numpy)
    expected = scipy.special.softmax(lib.to_numpy(logits(head, x)) / 3, axis=1)
    np.testing.assert_allclose(lib.to_numpy(scores(head, x)), expected, atol=1e-6)


def test_values_of_a_regression_are_its_logits_and_finite(lib: ArrayLibrary) -> None:
    head = Classifier(mlp(((W * 3, B),)).layers, REGRESSION).convert_arrays(lib.from_numpy)
    rows = np.array([np.arange(6), np.full(6, 3e38), np.full(6, -3e38)], np.float32)
    actual = lib.to_numpy(scores(head, lib.from_numpy(rows)))
    np.testing.assert_array_equal(actual[0], np.full(4, 45, np.float32))
    # A value that overflows is the largest number: it is not computed for another row.
    np.testing.assert_array_equal(actual[1:, 0], np.array([MAX, -MAX], np.float32))


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(InvalidInputError, match="temperature above 0") as error:
        Classifier(mlp(((W, B),)).layers, temperature=temperature)
    assert error.value.pointer == "/temperature"


def test_temperature_of_a_regression_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no temperature for a regression"):
        Classifier(mlp(((W, B),)).layers, REGRESSION, 2.0)
