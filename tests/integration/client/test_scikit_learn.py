"""Heads from scikit-learn: probabilities, labels and values equal the estimator's own."""

from typing import Any

import numpy as np
import pytest
import scipy.special
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC

from stitchwork.client import Stitchwork
from stitchwork.client.head_weights import LayerWeights
from stitchwork.client.scikit_learn_steps import prepend
from stitchwork.errors import InvalidInputError
from tests.conftest import Pair
from tests.integration.client.test_heads import probabilities as head_probabilities


def classes(pair: Pair, count: int, kind: type) -> NDArray[Any]:
    """A class of each anchor of y that a linear head can learn."""
    scores = pair.y_anchors @ pair.y_anchors[:count].T
    indices: NDArray[Any] = np.argmax(scores - np.median(scores, axis=0), axis=1)
    return indices.astype(kind)


def logistic() -> LogisticRegression:
    return LogisticRegression(C=0.01, max_iter=2000)


def network(activation: str, *hidden: int) -> MLPClassifier:
    return MLPClassifier(hidden, activation=activation, max_iter=60, random_state=0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    "estimator",
    [
        logistic(),
        LogisticRegression(C=0.01, fit_intercept=False, max_iter=2000),
        make_pipeline(StandardScaler(), logistic()),
        make_pipeline(StandardScaler(with_mean=False), logistic()),
        make_pipeline(StandardScaler(with_std=False), "passthrough", logistic()),
        make_pipeline(MinMaxScaler(), TruncatedSVD(12, random_state=0), logistic()),
        make_pipeline(StandardScaler(), PCA(10, whiten=True), MaxAbsScaler(), logistic()),
        make_pipeline(make_pipeline(PCA(10)), logistic()),
        GridSearchCV(make_pipeline(PCA(), logistic()), {"pca__n_components": [4, 8]}, cv=2),
        make_pipeline(RobustScaler(), IncrementalPCA(8), logistic()),
        make_pipeline(Normalizer(), logistic()),
        make_pipeline(StandardScaler(), Normalizer("l1"), logistic()),
        make_pipeline(PCA(10), Normalizer("max"), StandardScaler(), logistic()),
        LinearDiscriminantAnalysis(),
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", alpha=0.01, random_state=0)),
        OneVsRestClassifier(logistic()),
        OneVsRestClassifier(make_pipeline(StandardScaler(), logistic())),
        *(network(name, 9) for name in ("identity", "logistic", "tanh", "relu")),
        make_pipeline(StandardScaler(), network("logistic", 8, 7, 6)),
    ],
    ids=lambda estimator: str(estimator).split("(")[0],
)
def test_head_from_scikit_learn_equals_its_predict_proba(
    client: Stitchwork, pair: Pair, estimator: Any, count: int
) -> None:
    estimator.fit(pair.y_anchors, classes(pair, count, int))
    record = client.put_head_from_sklearn("sk", "y", estimator)
    assert record["labels"] == estimator.classes_.tolist()
    rows = pair.y_anchors[:50]
    actual = head_probabilities(client, "sk", rows)
    np.testing.assert_allclose(actual, estimator.predict_proba(rows), atol=1e-4)
    predicted = [one["label"] for one in client.classify("sk", rows, "y")]
    assert predicted == estimator.predict(rows).tolist()
    client.delete("heads", "sk")


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    "estimator",
    [
        LinearSVC(),
        RidgeClassifier(),
        LinearSVC(fit_intercept=False),
        SGDClassifier(loss="hinge", random_state=0),
        Perceptron(random_state=0),
        OneVsRestClassifier(LinearSVC()),
    ],
    ids=str,
)
def test_head_from_decision_values_without_the_flag_is_refused(
    client: Stitchwork, pair: Pair, estimator: Any, count: int
) -> None:
    model = make_pipeline(StandardScaler(), estimator).fit(
        pair.y_anchors, classes(pair, count, str)
    )
    with pytest.raises(InvalidInputError, match="has no probabilities; pass uncalibrated=True"):
        client.put_head_from_sklearn("sk", "y", model)
    client.put_head_from_sklearn("sk", "y", model, uncalibrated=True)
    rows = pair.y_anchors[:50]
    values = model.decision_function(rows)
    scores = np.stack([np.zeros(50), values], axis=1) if values.ndim == 1 else values
    actual = head_probabilities(client, "sk", rows)
    np.testing.assert_allclose(actual, scipy.special.softmax(scores, axis=1), atol=1e-5)
    predicted = [one["label"] for one in client.classify("sk", rows, "y")]
    assert predicted == model.predict(rows).tolist()
    client.delete("heads", "sk")


class LogisticRegressionOfAnother:
    """Another library's class, which may compute anything."""


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            make_pipeline(QuantileTransformer(n_quantiles=10), logistic()),
            "QuantileTransformer cannot be part",
        ),
        (CalibratedClassifierCV(logistic()), "got CalibratedClassifierCV"),
        (SGDClassifier(loss="modified_huber"), "got modified_huber"),
        (VotingClassifier([("a", logistic())]), "got VotingClassifier"),
        (OneVsRestClassifier(network("relu", 3)), "expected linear estimators of two classes"),
        (FixedThresholdClassifier(logistic()), "got FixedThresholdClassifier"),
        (make_pipeline(MinMaxScaler(clip=True), logistic()), "MinMaxScaler with clip=True"),
        (SVC(), "expected one of LogisticRegression, .* got SVC"),
        (make_pipeline(StandardScaler(), SVC()), "got SVC"),
        (LogisticRegressionOfAnother(), "expected an estimator of scikit-learn, got tests"),
    ],
)
def test_estimator_that_a_head_cannot_compute_is_refused_by_name(
    client: Stitchwork, pair: Pair, estimator: Any, message: str
) -> None:
    if hasattr(estimator, "fit"):
        estimator.fit(pair.y_anchors, classes(pair, 2, int))
    with pytest.raises(InvalidInputError, match=message):
        client.put_head_from_sklearn("sk", "y", estimator)


def indicators(pair: Pair) -> NDArray[np.int64]:
    """Three labels of each anchor of y, of which any number applies."""
    columns = pair.y_anchors[:, :3]
    return np.asarray(columns > columns.mean(axis=0), np.int64)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "estimator",
    [
        OneVsRestClassifier(logistic()),
        make_pipeline(StandardScaler(), OneVsRestClassifier(logistic())),
        MultiOutputClassifier(logistic()),
        network("relu", 6),
        RidgeClassifier(),
        OneVsRestClassifier(LinearSVC()),
    ],
    ids=str,
)
def test_estimator_of_several_labels_for_each_row_is_a_multi_label_head(
    client: Stitchwork, pair: Pair, estimator: Any
) -> None:
    estimator.fit(pair.y_anchors, indicators(pair))
    record = client.put_head_from_sklearn(
        "sk", "y", estimator, labels=np.array(["a", "b", "c"]), uncalibrated=True
    )
    assert record["problem_type"] == "multi_label_classification"
    rows = pair.y_anchors[:50]
    predictions = client.classify("sk", rows, "y", top=3)
    actual = np.array(
        [[{e["label"]: e["score"] for e in p["top"]}[name] for name in "abc"] for p in predictions]
    )
    expected = [
        ["abc"[i] for i in np.flatnonzero(row)] for row in np.asarray(estimator.predict(rows))
    ]
    assert [sorted(e["label"] for e in p["labels"]) for p in predictions] == expected
    if hasattr(estimator, "predict_proba"):
        probabilities = estimator.predict_proba(rows)
        if isinstance(probabilities, list):
            probabilities = np.stack([both[:, 1] for both in probabilities], axis=1)
        np.testing.assert_allclose(actual, probabilities, atol=1e-5)
    client.delete("heads", "sk")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(),
        make_pipeline(StandardScaler(), PCA(12), Ridge()),
        Lasso(0.01),
        MLPRegressor(hidden_layer_sizes=(8,), activation="tanh", max_iter=80, random_state=0),
    ],
    ids=str,
)
def test_regressor_is_a_regression_with_its_values(
    client: Stitchwork, pair: Pair, estimator: Any, outputs: int
) -> None:
    targets = pair.y_anchors[:, 3 : 3 + outputs] * 2 + 1
    estimator.fit(pair.y_anchors, targets[:, 0] if outputs == 1 else targets)
    names = ["stars", "price"][:outputs]
    record = client.put_head_from_sklearn("sk", "y", estimator, labels=names)
    assert (record["problem_type"], record["labels"]) == ("regression", names)
    rows = pair.y_anchors[:50]
    predictions = client.classify("sk", rows, "y")
    actual = [[value["value"] for value in one["values"]] for one in predictions]
    expected = np.asarray(estimator.predict(rows)).reshape(50, outputs)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert list(predictions[0]) == ["values"]
    client.delete("heads", "sk")


def test_labels_of_several_outputs_of_other_classes_are_refused(
    client: Stitchwork, pair: Pair
) -> None:
    names = np.where(indicators(pair) == 1, "yes", "no")
    model = MultiOutputClassifier(logistic()).fit(pair.y_anchors, names)
    with pytest.raises(InvalidInputError, match=r"outputs of 0 and 1, .*'no', 'yes'"):
        client.put_head_from_sklearn("sk", "y", model)


def test_estimator_that_is_not_fitted_is_refused(client: Stitchwork) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a fitted estimator: .*coef_"):
        client.put_head_from_sklearn("sk", "y", logistic())


def test_scaler_of_rows_far_from_zero_is_not_folded(client: Stitchwork) -> None:
    rng = np.random.default_rng(0)
    rows = (1e4 + rng.normal(size=(300, 32))).astype(np.float32)
    targets = (rows[:, 0] > rows[:, 0].mean()).astype(int)
    model = make_pipeline(StandardScaler(), logistic()).fit(rows, targets)
    client.put_space("far", "far-set", anchors=rows[:50])
    record = client.put_head_from_sklearn("sk", "far", model)
    assert [layer["kind"] for layer in record["layers"]] == ["batch_norm", "linear"]
    predictions = client.classify("sk", rows, "far", top=2)
    actual = [{e["label"]: e["score"] for e in p["top"]}[1] for p in predictions]
    np.testing.assert_allclose(actual, model.predict_proba(rows)[:, 1], atol=1e-4)
    client.delete("heads", "sk")
    client.delete("spaces", "far")


def test_small_offset_of_a_scaler_is_folded() -> None:
    scaler = StandardScaler().fit(np.random.default_rng(0).normal(size=(20, 4)))
    linear = LayerWeights("linear", {"weight": np.ones((2, 4)), "bias": np.zeros(2)})
    (layer,) = prepend(scaler, [linear])
    x = np.random.default_rng(1).normal(size=(5, 4))
    actual = x @ layer.arrays["weight"].T + layer.arrays["bias"]
    np.testing.assert_allclose(actual, scaler.transform(x) @ np.ones((4, 2)))
