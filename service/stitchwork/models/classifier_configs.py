"""What the configs of transformers classifiers say of their logits."""

from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import MULTI_LABEL, REGRESSION, SINGLE_LABEL, ProblemType
from stitchwork.geometry.head_layers import Layer
from stitchwork.models.pretrained_head import PretrainedHead

PROBLEM_TYPES: Final[tuple[ProblemType, ...]] = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)


def classifier_head(
    name: str, layers: tuple[Layer, ...], config: Any, folder: Path
) -> PretrainedHead:
    """The head of a classifier's layers, with what its config says of them.

    Args:
        name: Name of the model in errors.
        layers: From the embedding to the logits.
        config: The model's config.
        folder: The folder of its files.

    Raises:
        InvalidInputError: If the config has an unknown problem type or an invalid temperature.
    """
    labels = tuple(str(config.id2label[i]) for i in range(len(config.id2label)))
    problem_type, temperature = _problem_type(name, config), _temperature(name, folder)
    return PretrainedHead(name, layers, labels, problem_type, temperature)


def _problem_type(name: str, config: Any) -> ProblemType | None:
    """What a config says of the logits.

    Raises:
        InvalidInputError: If it says something unknown.
    """
    value = getattr(config, "problem_type", None)
    if value is None:
        return None if config.num_labels == 1 else SINGLE_LABEL
    for problem_type in PROBLEM_TYPES:
        if value == problem_type:
            return problem_type
    raise InvalidInputError(
        f"expected a problem_type of {', '.join(PROBLEM_TYPES)} in the config of {name}, got "
        f"{str(value)[:80]!r}"
    )


def _temperature(name: str, folder: Path) -> float | None:
    """The temperature of a calibration in a config, as the file has it.

    Raises:
        InvalidInputError: If it is no positive number.
    """
    # transformers drops it, since the config of a model that generates has that of sampling.
    config = PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0]
    value, kind = config.get("temperature"), config.get("model_type")
    generates = (
        kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if value is None or generates:
        return None
    if not isinstance(value, float | int) or not 0 < value < float("inf"):
        raise InvalidInputError(
            f"expected a temperature above 0 in the config of {name}, got {str(value)[:80]!r}"
        )
    return float(value)
