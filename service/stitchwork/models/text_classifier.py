"""The classifiers of pretrained text models, as heads of their embeddings."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError
from stitchwork.geometry.classifier import Classifier
from stitchwork.geometry.head_layers import Layer
from stitchwork.models.classifier_configs import classifier_head
from stitchwork.models.encoder import inference_mode
from stitchwork.models.folder_checks import check_folder
from stitchwork.models.head_tracing import Traced, UnknownOperationError, trace_head
from stitchwork.models.parity import SAMPLE_TEXTS
from stitchwork.models.pretrained_head import PretrainedHead
from stitchwork.models.pretrained_weights import (
    LOCAL_FILES_ONLY,
    PRIVATE_WEIGHTS,
    check_weights,
)
from stitchwork.models.text_settings import pooling_modes, resolve_spec
from stitchwork.models.transformers_encoder import TransformersEncoder
from stitchwork.resources import TextEncoder

MAX_DIFFERENCES: Final = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 5e-2}
"""Largest difference of a logit, relative to the largest one or 1, by the dtype of the model;
rounding causes 1e-6 in float32."""


def text_classifier(spec: TextEncoder, folder: Path) -> PretrainedHead:
    """The classifier of a pretrained model, for embeddings with the classifier's pooling.

    Args:
        spec: The model; its pooling must be that of the classifier.
        folder: The folder of its files.

    Returns:
        The layers from the spec's embeddings to the logits, and what the model's config says of
        them.

    Raises:
        InvalidInputError: If the model has no classifier, the classifier has an unsupported form,
            or it expects another pooling.
        JobFailedError: If its logits differ from those of the whole model.
    """
    resolved, files = resolve_spec(spec, folder)
    check_folder(spec.model, files.model_folder)
    model = _load(spec.model, files.model_folder)
    if getattr(model.config, "is_encoder_decoder", False):
        raise InvalidInputError(
            f"{spec.model} is an encoder-decoder model ({model.config.model_type}), whose "
            "classifier takes what its decoder gives: it cannot be a head of the encoder"
        )
    encoder = TransformersEncoder(
        spec,
        torch.device("cpu"),
        folder,
        compile_models=False,
        # The logits are compared instead, with the same weights.
        prove=False,
        model=getattr(model, model.base_model_prefix, None),
    )
    traced = _trace(spec.model, model, encoder)
    if (
        pooling_modes(resolved.pooling or "mean") != (traced.pooling,)
        or resolved.normalize
        or spec.layer != -1
        or resolved.modules
    ):
        raise InvalidInputError(
            f"the classifier of {spec.model} expects an encoder with pooling {traced.pooling}, "
            "layer -1, normalize false and no modules"
        )
    check_logits(spec.model, encoder, model, traced.layers)
    return classifier_head(spec.model, traced.layers, model.config, files.model_folder)


def _load(name: str, folder: Path) -> Any:
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        # Naming the attention keeps a config from requesting a kernel from the hub.
        attn_implementation="eager",
        # As the encoder is loaded: the logits of weights in half precision depend on the batch.
        dtype=torch.float32,
        **PRIVATE_WEIGHTS,
        **LOCAL_FILES_ONLY,
    )
    own = {part for part, _ in model.named_children()} - {model.base_model_prefix}
    # Missing weights are initialised at random, and a random head must never be served.
    if any(key.split(".", 1)[0] in own for key in info["missing_keys"]):
        raise InvalidInputError(f"{name} has no trained classifier")
    check_weights(name, model, info, unused_pooler=False)
    return model.eval()


def _trace(name: str, model: Any, encoder: TransformersEncoder) -> Traced:
    """The layers of a model's classifier.

    Raises:
        InvalidInputError: If it does something that no layer of a head computes.
    """
    try:
        return trace_head(model, encoder.tokenize(SAMPLE_TEXTS[0]))
    except UnknownOperationError as error:
        raise InvalidInputError(
            f"expected the classifier of {name} to consist of layers that a head computes, on "
            f"pooled hidden states; {type(model).__name__} has {error.operation}"
        ) from error


def check_logits(
    name: str, encoder: TransformersEncoder, model: Any, layers: tuple[Layer, ...]
) -> None:
    """Compare the layers on embeddings with the whole model, on a few texts.

    Args:
        name: Name of the model in errors.
        encoder: The encoder of the embeddings.
        model: The model with its classifier.
        layers: The layers that were taken from it.

    Raises:
        JobFailedError: If their logits differ.
    """
    with inference_mode(encoder.device, encoder.dtype):
        rows = encoder.forward(encoder.prepare(SAMPLE_TEXTS, truncate=True).inputs)
        actual = Classifier(layers).logits(rows.numpy())
        expected = np.concatenate(
            [model(**encoder.tokenize(text)).logits.float().numpy() for text in SAMPLE_TEXTS]
        )
    scale = max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(actual - expected).max()) / scale
    if not difference <= MAX_DIFFERENCES.get(model.dtype, 0.0):
        raise JobFailedError(
            f"the classifier of {name} ({type(model).__name__}) cannot be separated from its "
            f"model: logits of its embeddings differ by {difference:.2g} from the model's own",
            code=ErrorCode.LOAD_FAILED,
        )
