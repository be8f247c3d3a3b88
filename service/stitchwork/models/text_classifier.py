"""The classifiers of pretrained text models, as heads of their embeddings."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn import Linear
from transformers import AutoModelForSequenceClassification
from transformers.activations import ACT2FN

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError
from stitchwork.geometry.classifier import Classifier
from stitchwork.models.encoder import inference_mode
from stitchwork.models.folder_checks import check_folder
from stitchwork.models.pretrained_weights import (
    LOCAL_FILES_ONLY,
    PRIVATE_WEIGHTS,
    check_weights,
)
from stitchwork.models.text_parity import SAMPLE_TEXTS
from stitchwork.models.text_settings import resolve_spec
from stitchwork.models.transformers_encoder import TransformersEncoder
from stitchwork.resources import TextEncoder

MAX_DIFFERENCE: Final = 1e-4
"""Largest difference of a logit, relative to the largest one or 1; rounding causes 1e-6."""
ACTIVATION_NAMES: Final = {
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "SiLU": "silu",
    "SiLUActivation": "silu",
}
"""Names of our activations by the class of torch's or transformers' module."""


def text_classifier(spec: TextEncoder, folder: Path) -> tuple[Classifier, list[str]]:
    """The classifier of a pretrained model, for embeddings with the model's own pooling.

    Args:
        spec: The model; its pooling must be that of the classifier.
        folder: The folder of its files.

    Returns:
        A classifier of the spec's embeddings, float32 numpy, and its labels.

    Raises:
        InvalidInputError: If the classifier has an unsupported form, or expects another pooling.
        JobFailedError: If its logits differ from those of the whole model.
    """
    resolved, files = resolve_spec(spec, folder)
    check_folder(spec.model, files.model_folder)
    model = _load(spec.model, files.model_folder)
    layers, activation = _layers(spec.model, model)
    if resolved.pooling != "cls" or resolved.normalize or spec.layer != -1 or resolved.modules:
        raise InvalidInputError(
            f"the classifier of {spec.model} expects an encoder with pooling cls, layer -1, "
            "normalize false and no modules"
        )
    classifier = Classifier(tuple(_arrays(layer) for layer in layers), activation)
    names = model.config.id2label
    check_logits(spec, folder, model, classifier)
    return classifier, [str(names[i]) for i in range(len(names))]


def _load(name: str, folder: Path) -> Any:
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        # Naming the attention keeps a config from requesting a kernel from the hub.
        attn_implementation="eager",
        **PRIVATE_WEIGHTS,
        **LOCAL_FILES_ONLY,
    )
    own = {part for part, _ in model.named_children()} - {model.base_model_prefix}
    # Missing weights are initialised at random, and a random head must never be served.
    if any(key.split(".", 1)[0] in own for key in info["missing_keys"]):
        raise InvalidInputError(f"{name} has no trained classifier")
    check_weights(name, model, info, unused_pooler=False)
    kind = getattr(model.config, "problem_type", None)
    if model.config.num_labels < 2 or kind in ("regression", "multi_label_classification"):
        form = kind or "one number"
        raise InvalidInputError(
            f"expected the classifier of {name} to choose one of several labels, got {form}"
        )
    return model.eval()


def _layers(name: str, model: Any) -> tuple[list[Linear], str]:
    """The linear layers of a classifier, and the activation between them."""
    head: Any = getattr(model, "classifier", None)
    base = getattr(model, model.base_model_prefix)
    if hasattr(model, "head") and not isinstance(model.head, Linear):
        # ModernBERT has a normalisation between its layers.
        raise _unsupported(name, type(model.head).__name__)
    if isinstance(getattr(head, "out_proj", None), Linear):
        # RoBERTa's head calls tanh as a function; the others have a module for it.
        activation = getattr(head, "activation", None) or torch.nn.Tanh()
        return [head.dense, head.out_proj], _activation_name(name, activation)
    if not isinstance(head, Linear):
        raise _unsupported(name, type(head).__name__ if head is not None else type(model).__name__)
    if isinstance(getattr(model, "pre_classifier", None), Linear):
        return [model.pre_classifier, head], "relu"
    pooler = getattr(model, "pooler", None)
    if pooler is not None:
        hidden_act = getattr(model.config, "pooler_hidden_act", None)
        if not isinstance(getattr(pooler, "dense", None), Linear) or hidden_act is None:
            raise _unsupported(name, type(pooler).__name__)
        return [pooler.dense, head], _activation_name(name, ACT2FN[hidden_act])
    pooler = getattr(base, "pooler", None)
    if pooler is None:
        return [head], "identity"
    if isinstance(pooler, Linear):
        return [pooler, head], _activation_name(name, base.pooler_activation)
    if not isinstance(getattr(pooler, "dense", None), Linear):
        raise _unsupported(name, type(pooler).__name__)
    return [pooler.dense, head], _activation_name(name, pooler.activation)


def _activation_name(name: str, activation: Any) -> str:
    class_name = type(activation).__name__
    if class_name not in ACTIVATION_NAMES:
        raise _unsupported(name, f"the activation {class_name}")
    return ACTIVATION_NAMES[class_name]


def _unsupported(name: str, form: str) -> InvalidInputError:
    return InvalidInputError(
        f"expected the classifier of {name} to be one or two linear layers, got {form}"
    )


def _arrays(layer: Linear) -> tuple[Any, Any]:
    weight = layer.weight.detach().float().numpy()
    bias = layer.bias.detach().float().numpy() if layer.bias is not None else None
    return weight, np.zeros(len(weight), np.float32) if bias is None else bias


def check_logits(spec: TextEncoder, folder: Path, model: Any, classifier: Classifier) -> None:
    """Compare the classifier of embeddings with the whole model, on a few texts.

    Args:
        spec: The encoder of the embeddings.
        folder: The folder of its files.
        model: The model with its classifier.
        classifier: The classifier that was taken from it.

    Raises:
        JobFailedError: If their logits differ.
    """
    cpu = torch.device("cpu")
    encoder = TransformersEncoder(spec, cpu, folder, compile_models=False)
    with inference_mode(cpu):
        rows = encoder.forward(encoder.prepare(SAMPLE_TEXTS, truncate=True).inputs)
        actual = classifier.logits(rows.numpy())
        expected = np.concatenate(
            [model(**encoder.tokenize(text)).logits.float().numpy() for text in SAMPLE_TEXTS]
        )
    scale = max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(actual - expected).max()) / scale
    if not difference <= MAX_DIFFERENCE:
        raise JobFailedError(
            f"the classifier of {spec.model} ({type(model).__name__}) cannot be separated from its "
            f"model: logits of its embeddings differ by {difference:.2g} from the model's own",
            code=ErrorCode.LOAD_FAILED,
        )
