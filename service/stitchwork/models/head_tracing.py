"""Reads the layers of a classifier from the operations between its embedding and its logits.

A transformers classifier may call modules, or functions such as `torch.tanh`, and may keep some of
its layers in the base model's pooler. So the operations of one forward pass are recorded, and
followed from the logits back to the pooled hidden states. Operations that only select or reshape
are skipped: the caller compares the layers with the whole model on other inputs.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from stitchwork.geometry.head_layers import Layer
from stitchwork.models.pooling import pool
from stitchwork.resources import TokenPooling

ACTIVATION_MODULES: Final = {
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "AccurateGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
}
"""Kinds of layers by transformers' modules, some of which consist of many operations."""
FUNCTIONS: Final = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "silu": "silu"}
"""Kinds of layers by the names of torch's functions."""
STRUCTURAL: Final = frozenset(
    {
        *("__getitem__", "select", "index_select", "gather", "take_along_dim"),
        *("squeeze", "unsqueeze", "view", "reshape", "flatten", "contiguous"),
        *("to", "float", "type", "clone", "detach", "dropout"),
    }
)
"""Functions that select or reshape numbers, or change nothing in evaluation."""
MODES: Final[tuple[TokenPooling, ...]] = ("cls", "last", "mean", "max")
RTOL: Final = 1e-4
"""Largest difference of equal rows, relative to the largest number of one."""


class Traced(NamedTuple):
    """A classifier as it was traced.

    Attributes:
        layers: From the pooled hidden states to the logits, float32 numpy.
        pooling: How hidden states are pooled.
    """

    layers: tuple[Layer, ...]
    pooling: TokenPooling


class UnknownOperationError(Exception):
    """An operation that no layer computes.

    Args:
        operation: Its name.
    """

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation


class _Step(NamedTuple):
    name: str
    args: Sequence[Any]
    options: Mapping[str, Any]
    output: torch.Tensor


class _Recorder(TorchFunctionMode):
    """Records the step that produced each tensor; it keeps all, so that no id is reused."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[int, _Step] = {}
        self.modules: dict[int, _Step] = {}
        self._thread = threading.get_ident()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and all(output is not part for part in args):
            step = _Step(getattr(func, "__name__", str(func)), args, kwargs or {}, output)
            self.steps.setdefault(id(output), step)
        return output

    def record_module(self, module: Any, args: Sequence[Any], output: Any) -> None:
        """A forward hook, which records the activations that count as one step."""
        name = type(module).__name__
        if name in ACTIVATION_MODULES and threading.get_ident() == self._thread:
            self.modules[id(output)] = _Step(name, args, {}, output)

    def producer(self, tensor: torch.Tensor) -> _Step | None:
        """The step that produced a tensor; None for inputs and weights."""
        return self.modules.get(id(tensor)) or self.steps.get(id(tensor))


def trace_head(model: Any, inputs: Mapping[str, torch.Tensor]) -> Traced:
    """Trace the classifier of a transformers model.

    Args:
        model: The model with its classifier, in evaluation mode.
        inputs: What its tokenizer gives for one text of several tokens.

    Returns:
        Layers that give the logits of this text from its pooled hidden states.

    Raises:
        UnknownOperationError: If an operation between the pooling and the logits is none of a
            layer, or they do not lead to a pooling of the hidden states.
    """
    recorder, hidden = _Recorder(), list[torch.Tensor]()
    base = getattr(model, model.base_model_prefix)

    def keep_hidden(_module: Any, _args: Any, output: Any) -> None:
        hidden.append(output[0] if isinstance(output, tuple) else output.last_hidden_state)

    # For all modules, since some classifiers make their activations in the forward pass.
    handles = [
        register_module_forward_hook(recorder.record_module),
        base.register_forward_hook(keep_hidden),
    ]
    try:
        with torch.no_grad(), recorder:
            logits = model(**inputs).logits
    finally:
        for handle in handles:
            handle.remove()
    states = hidden[-1].float()
    length = torch.tensor([states.shape[1]])
    mask = torch.ones(1, states.shape[1], dtype=torch.int64)
    pooled = {mode: pool(states, mask, length, mode) for mode in MODES}
    layers, tensor = list[Layer](), logits
    while True:
        mode = _matching_mode(tensor, states, pooled, layers, logits)
        if mode is not None:
            return Traced(tuple(layers), mode)
        step = recorder.producer(tensor)
        if step is None:
            raise UnknownOperationError("a row that is no pooling of its hidden states")
        layer, tensor = _read(step)
        layers = [layer, *layers] if layer else layers


def _matching_mode(
    tensor: torch.Tensor,
    states: torch.Tensor,
    pooled: Mapping[TokenPooling, torch.Tensor],
    layers: Sequence[Layer],
    logits: torch.Tensor,
) -> TokenPooling | None:
    """The pooling whose row a tensor is, or that the logits are computed of from all states."""
    if tensor.shape == states.shape and _equal(tensor, states):
        for mode, row in pooled.items():
            x: Any = row.numpy()
            for layer in layers:
                x = layer.compute(x)
            if _equal(torch.from_numpy(np.asarray(x)), logits):
                return mode
        raise UnknownOperationError("a token that is neither the first nor the last one")
    for mode, row in pooled.items():
        if tensor.numel() == row.numel() and _equal(tensor.reshape(row.shape), row):
            return mode
    return None


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    a, b = a.float(), b.float()
    if a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= RTOL * b.abs().max())


def _read(step: _Step) -> tuple[Layer | None, torch.Tensor]:
    """The layer of a step, None if it changes no number, and the input of the step.

    Raises:
        UnknownOperationError: If it is none of a layer.
    """
    name, args, options = step.name, step.args, step.options
    if name in ACTIVATION_MODULES:
        return Layer(ACTIVATION_MODULES[name]), args[0]
    if name in STRUCTURAL:
        return None, args[0]
    if name in FUNCTIONS:
        return Layer(FUNCTIONS[name]), args[0]
    if name == "gelu":
        approximate = options.get("approximate", args[1] if len(args) > 1 else "none")
        return Layer("gelu_tanh" if approximate == "tanh" else "gelu"), args[0]
    if name == "leaky_relu":
        slope = options.get("negative_slope", args[1] if len(args) > 1 else 0.01)
        return Layer("leaky_relu", options={"negative_slope": float(slope)}), args[0]
    if name == "linear":
        weight, bias = args[1], args[2] if len(args) > 2 else options.get("bias")
        return _linear(weight, bias), args[0]
    if name == "addmm":
        return _linear(args[2].T, args[0]), args[1]
    if name == "layer_norm":
        return _layer_norm(args, options), args[0]
    raise UnknownOperationError(name)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Layer:
    zeros = torch.zeros(len(weight))
    return Layer(
        "linear", {"weight": _numpy(weight), "bias": _numpy(zeros if bias is None else bias)}
    )


def _layer_norm(args: Sequence[Any], options: Mapping[str, Any]) -> Layer:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    fields = {**dict(zip(names, args, strict=False)), **options}
    width = int(fields["input"].shape[-1])
    weight, bias = fields.get("weight"), fields.get("bias")
    arrays = {
        "weight": _numpy(torch.ones(width) if weight is None else weight),
        "bias": _numpy(torch.zeros(width) if bias is None else bias),
    }
    return Layer("layer_norm", arrays, {"eps": float(fields.get("eps", 1e-5))})


def _numpy(tensor: torch.Tensor) -> Any:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())
