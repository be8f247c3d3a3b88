"""The classifiers of pretrained transformers models of images, as heads of their embeddings."""

from pathlib import Path
from typing import Final

import torch

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError
from stitchwork.geometry.classifier import Classifier
from stitchwork.geometry.head_layers import Layer
from stitchwork.models.classifier_configs import classifier_head
from stitchwork.models.folder_checks import check_folder
from stitchwork.models.pretrained_head import PretrainedHead
from stitchwork.models.projections import read_config
from stitchwork.models.transformers_vision_encoder import (
    TransformersVisionEncoder,
    sample_images,
)
from stitchwork.models.vision_heads import replace_classifier
from stitchwork.models.vision_models import load_classifier
from stitchwork.models.vision_preprocessing import VisionPreprocessor
from stitchwork.resources import VisionEncoder

MAX_DIFFERENCE: Final = 1e-4
"""Largest difference of a logit, relative to the largest one or 1; rounding causes 1e-6."""


@torch.no_grad()
def vision_classifier(spec: VisionEncoder, folder: Path) -> PretrainedHead:
    """The classifier of a pretrained model of images, for embeddings with pooling classifier.

    Args:
        spec: The model.
        folder: The folder of its files.

    Returns:
        A linear layer from the spec's embeddings to the logits, and what the model's config says
        of them.

    Raises:
        InvalidInputError: If the model has no classifier of one linear layer, or the embeddings
            are not its inputs.
        JobFailedError: If its logits differ from those of the whole model.
    """
    cpu = torch.device("cpu")
    encoder = TransformersVisionEncoder(spec, cpu, folder, compile_models=False, prove=False)
    resolved = encoder.spec
    changes = resolved.normalize or resolved.modules or resolved.dimensions
    if resolved.pooling != "classifier" or changes:
        raise InvalidInputError(
            f"the classifier of {spec.model} expects an encoder with pooling classifier, normalize "
            "false, all dimensions and no modules"
        )
    check_folder(spec.model, folder)
    model = load_classifier(spec.model, folder, read_config(folder))
    preprocessor = VisionPreprocessor(spec, folder)
    inputs = [preprocessor.prepare(image) for image in sample_images()]
    logits = model(**preprocessor.batch(inputs), **encoder.options).logits.float()
    layer = replace_classifier(spec.model, model)
    weight = layer.weight.float().numpy()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias
    layers = (Layer("linear", {"weight": weight, "bias": bias.float().numpy()}),)
    actual = torch.from_numpy(Classifier(layers).logits(encoder.forward(inputs).numpy()))
    difference = float((actual - logits).abs().max()) / max(1.0, float(logits.abs().max()))
    if not difference <= MAX_DIFFERENCE:
        raise JobFailedError(
            f"the classifier of {spec.model} ({type(model).__name__}) cannot be separated from its "
            f"model: logits of its embeddings differ by {difference:.2g} from the model's own",
            code=ErrorCode.LOAD_FAILED,
        )
    return classifier_head(spec.model, layers, model.config, folder)
