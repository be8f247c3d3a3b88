"""Heads from torch modules, read by their attributes.

torch is not imported, and nothing is pickled: a module is known by the name of its class.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from stitchwork.client.head_weights import HeadWeights, LayerWeights
from stitchwork.errors import InvalidInputError

MULTI_LABEL: Final = "multi_label_classification"
REGRESSION: Final = "regression"


def module_weights(module: Any, labels: Any = None, problem_type: str | None = None) -> HeadWeights:
    """The head of a module.

    Args:
        module: A Linear, or a Sequential of layers; nested ones are allowed. A last Softmax,
            LogSoftmax or Sigmoid is left out, as the head applies it itself.
        labels: One label for each output; two for a single score that chooses between them.
        problem_type: What the outputs mean; None is one label.

    Raises:
        InvalidInputError: If no head computes a module exactly as it is.
    """
    modules = list(_flatten(module))
    while modules and _name(modules[-1]) in ("Dropout", "Identity"):
        modules.pop()
    if modules:
        _check_end(modules[-1], labels, problem_type)
        if _name(modules[-1]) in (*SOFTMAX, "Sigmoid") and problem_type != REGRESSION:
            modules.pop()
    layers = [_layer(part) for part in modules]
    return HeadWeights(layers, labels, problem_type)


def _check_end(last: Any, labels: Any, problem_type: str | None) -> None:
    """Refuse a last activation that is not the one of the problem type."""
    name = _name(last)
    is_multi_label = problem_type == MULTI_LABEL
    single_score = not is_multi_label and labels is not None and len(labels) == 2
    if name in SOFTMAX and is_multi_label:
        raise InvalidInputError(
            f"expected no {name} at the end of a head of {MULTI_LABEL}, whose scores are sigmoids"
        )
    if name in SOFTMAX and getattr(last, "dim", None) not in (1, -1):
        raise InvalidInputError(f"{name}: expected dim 1 or -1, got {last.dim}")
    if name == "Sigmoid" and problem_type != REGRESSION and not (is_multi_label or single_score):
        raise InvalidInputError(
            "expected a Sigmoid at the end only of a single score with two labels or with "
            f"problem_type {MULTI_LABEL}"
        )


def _flatten(module: Any) -> Iterator[Any]:
    if _name(module) == "Sequential":
        _check_hooks(module)
        for part in module:
            yield from _flatten(part)
    else:
        yield module


def _name(module: Any) -> str:
    """The name of a class of torch.

    Raises:
        InvalidInputError: If it is another's, which may compute anything.
    """
    class_ = type(module)
    if not class_.__module__.startswith("torch.nn.modules."):
        raise InvalidInputError(
            f"expected modules of torch.nn, got {class_.__module__}.{class_.__qualname__}"
        )
    return class_.__name__


def _check_hooks(module: Any) -> None:
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        if getattr(module, name, None):
            raise InvalidInputError(
                f"{_name(module)} has hooks, which change what it computes: expected none"
            )


def _layer(module: Any) -> LayerWeights:
    name = _name(module)
    _check_hooks(module)
    if name not in MODULES:
        raise InvalidInputError(
            f"expected modules of {', '.join(MODULES)}, or a Sequential of them, got {name}"
        )
    return MODULES[name](module)


def _tensors(module: Any, *names: str) -> dict[str, Any]:
    tensors = {name: getattr(module, name, None) for name in names}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _linear(module: Any) -> LayerWeights:
    return LayerWeights("linear", _tensors(module, "weight", "bias"))


def _layer_norm(module: Any) -> LayerWeights:
    if len(module.normalized_shape) != 1:
        raise InvalidInputError(
            f"LayerNorm: expected one dimension, got {tuple(module.normalized_shape)}"
        )
    return LayerWeights("layer_norm", _tensors(module, "weight", "bias"), {"eps": module.eps})


def _batch_norm(module: Any) -> LayerWeights:
    if module.running_mean is None:
        raise InvalidInputError(
            "BatchNorm1d: expected running statistics, got track_running_stats=False"
        )
    names = ("weight", "bias", "running_mean", "running_var")
    return LayerWeights("batch_norm", _tensors(module, *names), {"eps": module.eps})


def _gelu(module: Any) -> LayerWeights:
    return LayerWeights("gelu_tanh" if module.approximate == "tanh" else "gelu")


def _leaky_relu(module: Any) -> LayerWeights:
    return LayerWeights("leaky_relu", options={"negative_slope": module.negative_slope})


def _plain(kind: str) -> Callable[[Any], LayerWeights]:
    return lambda _: LayerWeights(kind)


SOFTMAX: Final = ("Softmax", "LogSoftmax")
MODULES: Final[dict[str, Callable[[Any], LayerWeights]]] = {
    "Linear": _linear,
    "LayerNorm": _layer_norm,
    "BatchNorm1d": _batch_norm,
    "Dropout": _plain("dropout"),
    "Identity": _plain("identity"),
    "ReLU": _plain("relu"),
    "LeakyReLU": _leaky_relu,
    "Tanh": _plain("tanh"),
    "Sigmoid": _plain("sigmoid"),
    "LogSigmoid": _plain("log_sigmoid"),
    "SiLU": _plain("silu"),
    "GELU": _gelu,
}
"""Layers by the names of torch's modules, in evaluation, where Dropout does nothing."""
