"""The output tensors of a result: embeddings, or the predictions of a head."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchwork.api.kserve.models import ROWS
from stitchwork.geometry.classifier import MULTI_LABEL
from stitchwork.inference.pipeline import Pipeline
from stitchwork.inference.predictions import (
    MultiLabelPrediction,
    RegressionPrediction,
    decisions,
)
from stitchwork.inference.resolve import head_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import label_text


def output_arrays(pipeline: Pipeline, result: InferenceResult, top: int) -> dict[str, NDArray[Any]]:
    """The outputs of a model by name.

    Args:
        pipeline: Makes the predictions.
        result: What the model computed.
        top: Number of labels for each input. Those of a multi-label head are as many as the
            largest number of predicted labels, if that is larger, so that none is left out.
    """
    head = result.resolution.head
    if head is None:
        return {ROWS: result.rows}
    if head.problem_type == MULTI_LABEL:
        top = max(top, int(decisions(result.rows, head).sum(axis=1).max()))
    predictions = pipeline.predict(result, top)
    outputs: dict[str, list[list[Any]]] = {"labels": [], "scores": [], "predicted": []}
    values, confidences = list[list[float]](), list[float]()
    for prediction in predictions:
        if isinstance(prediction, RegressionPrediction):
            outputs["labels"].append([label_text(part["label"]) for part in prediction.values])
            values.append([part["value"] for part in prediction.values])
            continue
        outputs["labels"].append([label_text(best["label"]) for best in prediction.top])
        outputs["scores"].append([best["score"] for best in prediction.top])
        confidences.append(prediction.confidence)
        if isinstance(prediction, MultiLabelPrediction):
            predicted = {best["label"] for best in prediction.labels}
            outputs["predicted"].append([best["label"] in predicted for best in prediction.top])
    return {
        "labels": np.array(outputs["labels"], object),
        "scores": np.array(outputs["scores"], np.float32),
        "predicted": np.array(outputs["predicted"], np.bool_),
        "values": np.array(values, np.float32),
        "confidence": np.array(confidences, np.float32),
    }


def best_classes(result: InferenceResult, count: int) -> NDArray[Any]:
    """The best classes of each input, as Triton's classification extension writes them.

    Args:
        result: What a model with a head computed.
        count: Number of classes.

    Returns:
        (n, count) strings `score:index:label` in descending order of the scores, or fewer if the
        head has fewer classes.
    """
    labels = [label_text(label) for label in head_of(result.resolution).labels]
    order = np.argsort(-result.rows, axis=1, kind="stable")[:, :count]
    scores = np.take_along_axis(result.rows, order, axis=1)
    rows = [
        [f"{score:f}:{i}:{labels[i]}" for score, i in zip(values, classes, strict=True)]
        for values, classes in zip(scores.tolist(), order.tolist(), strict=True)
    ]
    return np.array(rows, object)
