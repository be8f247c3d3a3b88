"""Heads of pretrained models: what a model's own files say, and what a request says in place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import SINGLE_LABEL, Classifier, ProblemType
from stitchwork.geometry.head_layers import Layer
from stitchwork.registry.head_records import HeadDefinition, define_head


@dataclass(frozen=True, slots=True)
class PretrainedHead:
    """The classifier of a pretrained model.

    Attributes:
        model: Name of the model in errors.
        layers: From the embedding to the logits, float32 numpy.
        labels: One for each logit.
        problem_type: What the logits mean; None if the model's files do not say.
        temperature: Of a calibration in the model's files; None if there is none.
    """

    model: str
    layers: tuple[Layer, ...]
    labels: tuple[str, ...]
    problem_type: ProblemType | None = None
    temperature: float | None = None

    def define(self, overrides: Mapping[str, Any]) -> HeadDefinition:
        """The head as it is registered.

        Args:
            overrides: Labels, problem type, thresholds and temperature of the request, which are
                in force in place of the model's.

        Raises:
            InvalidInputError: If these do not fit the layers, or neither says what a single
                logit means.
        """
        problem_type = overrides.get("problem_type", self.problem_type)
        outputs = next(layer.outputs for layer in reversed(self.layers) if layer.outputs)
        if problem_type is None and outputs == 1:
            raise InvalidInputError(
                f"the classifier of {self.model} has a single output, and its config no "
                "problem_type: expected problem_type in the request, with two labels if it is "
                f"{SINGLE_LABEL}",
                pointer="/problem_type",
            )
        temperature = overrides.get("temperature", self.temperature)
        classifier = Classifier(self.layers, problem_type or SINGLE_LABEL, temperature or 1.0)
        labels = overrides.get("labels", self.labels)
        return define_head(classifier, labels, overrides.get("thresholds"))
