"""Heads as the client sends them: layers without arrays as JSON, and the arrays beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stitchwork.client.flows import label_list, without_none

ARRAYS: Final = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """A layer of a head.

    Attributes:
        kind: Its kind, as the service names it.
        arrays: Its arrays by name, such as `weight` (out, in) and `bias` (out,).
        options: Its options, such as `eps`.
    """

    kind: str
    arrays: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """A head as `put_head` sends it.

    Attributes:
        layers: From the embedding to the scores.
        labels: One label for each output; two for a single score that chooses between them. None
            leaves them to the service.
        problem_type: What the scores mean; None is one label.
    """

    layers: Sequence[LayerWeights]
    labels: Any = None
    problem_type: str | None = None

    @property
    def arrays(self) -> dict[str, Any]:
        """The arrays under the names of a torch Sequential, such as `0.weight` and `0.bias`."""
        return {
            f"{i}.{name}": array
            for i, layer in enumerate(self.layers)
            for name, array in layer.arrays.items()
        }

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the request beside the arrays."""
        labels = None if self.labels is None else label_list(self.labels)
        layers = [{"kind": layer.kind, **layer.options} for layer in self.layers]
        return without_none({"layers": layers, "labels": labels, "problem_type": self.problem_type})


def split_layers(layers: Sequence[Any]) -> HeadWeights:
    """Layers as a user writes them, names of kinds or dictionaries, without their arrays."""
    parts = []
    for layer in layers:
        fields = {"kind": layer} if isinstance(layer, str) else dict(layer)
        arrays = {name: fields.pop(name) for name in ARRAYS if fields.get(name) is not None}
        parts.append(LayerWeights(fields.pop("kind", "linear"), arrays, fields))
    return HeadWeights(parts)
