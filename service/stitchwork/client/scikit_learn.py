"""Heads from fitted scikit-learn estimators, read by their attributes.

scikit-learn is not imported, and nothing is pickled: an estimator is known by the name of its
class. Affine steps are folded into the first layer in float64; everything that a head cannot
compute exactly is refused by name.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from stitchwork.client.head_weights import HeadWeights, LayerWeights
from stitchwork.client.scikit_learn_steps import class_name, flatten, prepend
from stitchwork.errors import InvalidInputError

MULTI_LABEL: Final = "multi_label_classification"
REGRESSION: Final = "regression"
SEARCHES: Final = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV")
MLP_ACTIVATIONS: Final = {
    "identity": "identity",
    "logistic": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
}


def estimator_weights(
    estimator: Any, labels: Any = None, *, uncalibrated: bool = False
) -> HeadWeights:
    """The head of a fitted estimator.

    Args:
        estimator: A classifier or a regressor, or a Pipeline that ends in one.
        labels: Names of the outputs in place of the estimator's classes.
        uncalibrated: Whether to take a classifier without probabilities, with the softmax or the
            sigmoids of its decision values, which are not calibrated, in their place.

    Raises:
        InvalidInputError: If the estimator is not fitted, or not one that a head can compute.
    """
    try:
        head = _head(estimator, uncalibrated)
    except AttributeError as error:
        raise InvalidInputError(f"expected a fitted estimator: {error}") from error
    return head if labels is None else replace(head, labels=labels)


def _head(estimator: Any, uncalibrated: bool) -> HeadWeights:
    name = class_name(estimator)
    if name in SEARCHES:
        return _head(estimator.best_estimator_, uncalibrated)
    if name == "Pipeline":
        *steps, last = [step for _, step in estimator.steps]
        head = _head(last, uncalibrated)
        layers = list(head.layers)
        for step in reversed(list(flatten(steps))):
            layers = prepend(step, layers)
        return replace(head, layers=layers)
    if name in REGRESSORS:
        return REGRESSORS[name](estimator)
    if name not in CLASSIFIERS:
        raise InvalidInputError(
            f"expected one of {', '.join((*CLASSIFIERS, *REGRESSORS))} or a Pipeline that ends in "
            f"one, got {name}"
        )
    if not uncalibrated and _lacks_probabilities(estimator):
        raise InvalidInputError(
            f"{name} has no probabilities; pass uncalibrated=True to take the softmax of its "
            "decision values, which is not calibrated"
        )
    return CLASSIFIERS[name](estimator)


def _lacks_probabilities(estimator: Any) -> bool:
    name = class_name(estimator)
    if name == "SGDClassifier":
        return str(estimator.loss) not in ("log_loss", "modified_huber")
    if name in ("OneVsRestClassifier", "MultiOutputClassifier"):
        return any(_lacks_probabilities(_last(part)) for part in estimator.estimators_)
    return name in UNCALIBRATED


def _last(estimator: Any) -> Any:
    return estimator.steps[-1][1] if class_name(estimator) == "Pipeline" else estimator


def _linear(estimator: Any) -> HeadWeights:
    return HeadWeights([_linear_layer(estimator)], estimator.classes_)


def _linear_layer(estimator: Any) -> LayerWeights:
    weight = np.atleast_2d(np.asarray(estimator.coef_, np.float64))
    bias = np.broadcast_to(np.asarray(estimator.intercept_, np.float64), len(weight))
    return LayerWeights("linear", {"weight": weight, "bias": bias})


def _one_versus_rest(head: HeadWeights) -> HeadWeights:
    """A head whose probabilities are sigmoids, divided by their sum.

    That is the softmax of their logarithms.
    """
    return replace(head, layers=[*head.layers, LayerWeights("log_sigmoid")])


def _logistic_regression(estimator: Any) -> HeadWeights:
    head, count = _linear(estimator), len(estimator.classes_)
    # Attribute of older versions; without it, softmax for three classes or more.
    multi_class = getattr(estimator, "multi_class", "auto")
    if count > 2 and (multi_class == "ovr" or estimator.solver == "liblinear"):
        return _one_versus_rest(head)
    if count == 2 and multi_class == "multinomial":
        # These older versions take the softmax of (-z, z).
        arrays = {
            name: np.concatenate([-array, array]) for name, array in head.layers[0].arrays.items()
        }
        return replace(head, layers=[LayerWeights("linear", arrays)])
    return head


def _sgd(estimator: Any) -> HeadWeights:
    loss = str(estimator.loss)
    if loss == "modified_huber":
        raise InvalidInputError(
            "SGDClassifier: expected loss log_loss, whose probabilities are sigmoids, got "
            "modified_huber"
        )
    head = _linear(estimator)
    return _one_versus_rest(head) if loss == "log_loss" and len(head.labels) > 2 else head


def _ridge_classifier(estimator: Any) -> HeadWeights:
    # The weights of several labels of each row look like those of several classes.
    binarizer = getattr(estimator, "_label_binarizer", None)
    if binarizer is not None and str(binarizer.y_type_).startswith("multilabel"):
        return HeadWeights([_linear_layer(estimator)], estimator.classes_, MULTI_LABEL)
    return _linear(estimator)


def _mlp_layers(estimator: Any) -> list[LayerWeights]:
    activation = MLP_ACTIVATIONS[estimator.activation]
    layers: list[LayerWeights] = []
    for weight, bias in zip(estimator.coefs_, estimator.intercepts_, strict=True):
        arrays = {"weight": np.asarray(weight, np.float64).T, "bias": np.asarray(bias, np.float64)}
        layers += [LayerWeights(activation)] if layers else []
        layers.append(LayerWeights("linear", arrays))
    return layers


def _mlp(estimator: Any) -> HeadWeights:
    is_multi_label = estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1
    problem_type = MULTI_LABEL if is_multi_label else None
    return HeadWeights(_mlp_layers(estimator), estimator.classes_, problem_type)


def _one_versus_rest_classifier(estimator: Any) -> HeadWeights:
    head = _stack(estimator, estimator.classes_)
    if estimator.multilabel_:
        return replace(head, problem_type=MULTI_LABEL)
    if len(estimator.classes_) == 2 or _lacks_probabilities(estimator):
        return head
    return _one_versus_rest(head)


def _multi_output(estimator: Any) -> HeadWeights:
    for classes in estimator.classes_:
        if np.asarray(classes).tolist() != [0, 1]:
            raise InvalidInputError(
                "MultiOutputClassifier: expected outputs of 0 and 1, which are labels of their "
                f"own, got classes {np.asarray(classes).tolist()}"
            )
    head = _stack(estimator, list(range(len(estimator.estimators_))))
    return replace(head, problem_type=MULTI_LABEL)


def _stack(estimator: Any, labels: Any) -> HeadWeights:
    """One linear layer with the single score of each of an estimator's binary estimators."""
    rows = []
    for part in estimator.estimators_:
        layers = _head(part, uncalibrated=True).layers
        if len(layers) != 1 or len(layers[0].arrays["bias"]) != 1:
            raise InvalidInputError(
                f"{class_name(estimator)}: expected linear estimators of two classes, got "
                f"{class_name(part)}"
            )
        rows.append(layers[0].arrays)
    arrays = {name: np.concatenate([row[name] for row in rows]) for name in ("weight", "bias")}
    return HeadWeights([LayerWeights("linear", arrays)], labels)


def _linear_regressor(estimator: Any) -> HeadWeights:
    return HeadWeights([_linear_layer(estimator)], None, REGRESSION)


def _mlp_regressor(estimator: Any) -> HeadWeights:
    if estimator.out_activation_ != "identity":
        raise InvalidInputError(
            f"MLPRegressor: expected an output without activation, got {estimator.out_activation_}"
        )
    return HeadWeights(_mlp_layers(estimator), None, REGRESSION)


CLASSIFIERS: Final[dict[str, Callable[[Any], HeadWeights]]] = {
    "LogisticRegression": _logistic_regression,
    "LogisticRegressionCV": _logistic_regression,
    "LinearDiscriminantAnalysis": _linear,
    "SGDClassifier": _sgd,
    "MLPClassifier": _mlp,
    "LinearSVC": _linear,
    "Perceptron": _linear,
    "RidgeClassifier": _ridge_classifier,
    "RidgeClassifierCV": _ridge_classifier,
    "OneVsRestClassifier": _one_versus_rest_classifier,
    "MultiOutputClassifier": _multi_output,
}
UNCALIBRATED: Final = ("LinearSVC", "Perceptron", "RidgeClassifier", "RidgeClassifierCV")
"""Classifiers without probabilities."""
REGRESSORS: Final[dict[str, Callable[[Any], HeadWeights]]] = {
    **dict.fromkeys(
        (
            *("LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV"),
            *("ElasticNet", "ElasticNetCV", "SGDRegressor", "HuberRegressor", "LinearSVR"),
        ),
        _linear_regressor,
    ),
    "MLPRegressor": _mlp_regressor,
}
