"""Heads of several labels, of values, of torch modules and with temperatures, on every face."""

from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import scipy.special
import torch
from numpy.typing import NDArray
from safetensors.numpy import save, save_file
from sklearn.metrics import f1_score, mean_absolute_error, r2_score
from torch import nn

from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError
from tests.conftest import Pair
from tests.integration.client.test_commands import Run, run
from tests.integration.client.test_heads import same
from tests.support.onnx_models import run_onnx

__all__ = ["run"]

NAMES = ["red", "green", "blue"]
MULTI_LABEL, REGRESSION = "multi_label_classification", "regression"


def weights(pair: Pair, count: int = 3) -> dict[str, NDArray[Any]]:
    """A linear head whose logits are about zero."""
    centred = pair.y_anchors - pair.y_anchors.mean(axis=0)
    weight = centred[:count] / 400
    return {"weight": weight, "bias": -weight @ pair.y_anchors.mean(axis=0) + 0.2}


def logits(head: dict[str, NDArray[Any]], rows: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(rows @ head["weight"].T + head["bias"])


def scores_of(prediction: dict[str, Any]) -> list[float]:
    """Scores in the order of `NAMES`."""
    by_label = {entry["label"]: entry["score"] for entry in prediction["top"]}
    return [by_label[name] for name in NAMES]


@pytest.mark.parametrize("thresholds", [None, 0.3, [0.2, 0.5, 0.8]])
def test_multi_label_head_predicts_the_labels_that_reach_their_thresholds(
    client: Stitchwork, pair: Pair, thresholds: Any
) -> None:
    own = weights(pair)
    record = client.put_head(
        "multi", "y", arrays=own, labels=NAMES, problem_type=MULTI_LABEL, thresholds=thresholds
    )
    limits = np.broadcast_to(0.5 if thresholds is None else thresholds, 3)
    assert record["thresholds"] == pytest.approx(limits.tolist())
    assert record["problem_type"] == MULTI_LABEL
    rows = pair.y_anchors[:40]
    expected = scipy.special.expit(logits(own, rows))
    predictions = client.classify("multi", rows, "y", top=3)
    np.testing.assert_allclose([scores_of(one) for one in predictions], expected, atol=1e-4)
    sizes = set()
    for row, one in zip(expected, predictions, strict=True):
        order = np.argsort(-row)
        assert [entry["label"] for entry in one["top"]] == [NAMES[i] for i in order]
        chosen = [i for i in order if row[i] >= limits[i]]
        assert [entry["label"] for entry in one["labels"]] == [NAMES[i] for i in chosen]
        decided = np.where(row >= limits, row, 1 - row)
        assert one["confidence"] == pytest.approx(decided.prod(), abs=1e-4)
        assert set(one) == {"labels", "top", "confidence", "calibrated", "abstained"}
        sizes.add(len(chosen))
    assert len(sizes) > 1, "some inputs have more labels than others"
    limit = float(np.median([one["confidence"] for one in predictions]))
    for one, sure in zip(
        predictions,
        client.classify("multi", rows, "y", top=3, min_confidence=limit),
        strict=True,
    ):
        abstained = one["confidence"] < limit
        assert sure == one | ({"labels": [], "abstained": True} if abstained else {})
    client.delete("heads", "multi")


def test_regression_has_values_and_names_inputs_without_direction(
    url: str, client: Stitchwork, pair: Pair
) -> None:
    own = weights(pair, 2)
    record = client.put_head("values", "y", arrays=own, problem_type=REGRESSION)
    assert (record["labels"], record["thresholds"]) == ([0, 1], None)
    rows = pair.y_anchors[:10]
    for one, row in zip(client.classify("values", rows, "y"), logits(own, rows), strict=True):
        assert [value["label"] for value in one["values"]] == [0, 1]
        assert [value["value"] for value in one["values"]] == pytest.approx(row, abs=1e-4)
    mean = pair.x_anchors.astype(np.float64).mean(axis=0)
    body = {"space": "x", "embeddings": [mean.tolist(), pair.x[0].tolist()]}
    response = httpx.post(f"{url}/classify/values", json=body).json()
    assert response["undefined"] == [0]
    expected = logits(own, pair.y_anchors.mean(axis=0)[None])[0]
    got = [value["value"] for value in response["predictions"][0]["values"]]
    assert got == pytest.approx(expected, abs=1e-3)
    client.delete("heads", "values")


def test_response_of_a_head_of_one_label_has_no_other_fields(url: str, pair: Pair) -> None:
    body = {"space": "y", "embeddings": pair.y_anchors[:2].tolist()}
    response = httpx.post(f"{url}/classify/h", json=body).json()
    assert set(response) == {"predictions", "space", "head", "bridge", "uncovered", "warnings"}
    fields = {"label", "score", "top", "confidence", "calibrated", "abstained"}
    assert set(response["predictions"][0]) == fields


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(9)
    with torch.no_grad():
        norm(torch.randn(64, 9) * 3 + 1)
    return {
        "linear": nn.Linear(32, 3),
        "everything": nn.Sequential(
            nn.LayerNorm(32),
            nn.Dropout(0.5),
            nn.Sequential(nn.Linear(32, 9, bias=False), norm, nn.GELU()),
            nn.Linear(9, 8),
            nn.SiLU(),
            nn.Linear(8, 7),
            nn.GELU(approximate="tanh"),
            nn.LayerNorm(7, eps=0.1, elementwise_affine=False),
            nn.Linear(7, 6),
            nn.LeakyReLU(0.2),
            nn.Linear(6, 5),
            nn.Tanh(),
            nn.Linear(5, 4),
            nn.ReLU(),
            nn.Linear(4, 3),
            nn.Softmax(dim=1),
        ),
        "bfloat16": nn.Sequential(nn.Linear(32, 8), nn.Sigmoid(), nn.Linear(8, 3)).bfloat16(),
    }


@pytest.mark.parametrize("name", ["linear", "everything", "bfloat16"])
def test_head_from_torch_equals_the_module(client: Stitchwork, pair: Pair, name: str) -> None:
    module = modules()[name].eval()
    client.put_head_from_torch("torch", "y", module, labels=torch.tensor([5, 6, 7]))
    rows = pair.y_anchors[:30]
    with torch.no_grad():
        expected = module.float()(torch.from_numpy(rows))
    if name != "everything":
        expected = expected.softmax(dim=1)
    predictions = client.classify("torch", rows, "y", top=3)
    actual = [
        [{e["label"]: e["score"] for e in one["top"]}[label] for label in (5, 6, 7)]
        for one in predictions
    ]
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)
    outputs = run_onnx(client.export("y", "y", format="onnx", head="torch"), rows)
    np.testing.assert_allclose(outputs["probabilities"], expected.numpy(), atol=1e-4)
    client.delete("heads", "torch")


def test_sigmoid_at_the_end_of_a_torch_module_is_that_of_the_head(
    client: Stitchwork, pair: Pair
) -> None:
    torch.manual_seed(0)
    rows = torch.from_numpy(pair.y_anchors[:20])
    binary = nn.Sequential(nn.Linear(32, 1), nn.Sigmoid())
    client.put_head_from_torch("torch", "y", binary, labels=[False, True])
    with torch.no_grad():
        expected = binary(rows)[:, 0].numpy()
    one = client.classify("torch", rows.numpy(), "y", top=2)
    actual = [{e["label"]: e["score"] for e in row["top"]}[True] for row in one]
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    several = nn.Sequential(nn.Linear(32, 3), nn.Sigmoid())
    client.put_head_from_torch("torch", "y", several, labels=NAMES, problem_type=MULTI_LABEL)
    with torch.no_grad():
        expected = several(rows).numpy()
    predictions = client.classify("torch", rows.numpy(), "y", top=3)
    np.testing.assert_allclose([scores_of(one) for one in predictions], expected, atol=1e-4)
    values = nn.Sequential(nn.Linear(32, 1), nn.Sigmoid())
    client.put_head_from_torch("torch", "y", values, problem_type=REGRESSION)
    with torch.no_grad():
        expected = values(rows)[:, 0].numpy()
    actual = [row["values"][0]["value"] for row in client.classify("torch", rows.numpy(), "y")]
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    client.delete("heads", "torch")


class Own(nn.Module):
    """A module that may compute anything."""


def hooked() -> nn.Module:
    module = nn.Linear(32, 3)
    module.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Own(), "expected modules of torch.nn, got tests"),
        (nn.Sequential(nn.Conv1d(32, 3, 1)), "a Sequential of them, got Conv1d"),
        (nn.Sequential(nn.Linear(32, 3), nn.BatchNorm1d(3, track_running_stats=False)), "running"),
        (nn.Sequential(nn.LayerNorm((2, 32)), nn.Linear(32, 3)), "LayerNorm: expected one"),
        (nn.Sequential(nn.Linear(32, 3), nn.Sigmoid()), "expected a Sigmoid at the end only"),
        (nn.Sequential(nn.Linear(32, 3), nn.Softmax(dim=0)), "Softmax: expected dim 1"),
        (hooked(), "Linear has hooks"),
        (torch.nn.utils.parametrizations.weight_norm(nn.Linear(32, 3)), "ParametrizedLinear"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_torch_module_that_a_head_cannot_compute_is_refused_by_name(
    client: Stitchwork, module: nn.Module, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        client.put_head_from_torch("torch", "y", module, labels=NAMES)


@pytest.mark.parametrize("problem_type", ["single_label_classification", MULTI_LABEL])
def test_temperature_of_a_head_is_applied_and_calibrates_its_own_space(
    client: Stitchwork, pair: Pair, problem_type: str
) -> None:
    own, name = weights(pair), "hot"
    record = client.put_head(
        name, "y", arrays=own, labels=NAMES, problem_type=problem_type, temperature=2.5
    )
    assert record["temperature"] == 2.5
    rows = pair.y_anchors[:20]
    scaled = logits(own, rows) / 2.5
    softmax = problem_type != MULTI_LABEL
    expected = scipy.special.softmax(scaled, axis=1) if softmax else scipy.special.expit(scaled)
    predictions = client.classify(name, rows, "y", top=3)
    np.testing.assert_allclose([scores_of(one) for one in predictions], expected, atol=1e-4)
    assert all(one["calibrated"] for one in predictions)
    # Through a bridge it is applied, but it was not measured there.
    through = client.classify(name, pair.x_anchors[:20], "x", top=3)
    assert not any(one["calibrated"] for one in through)
    data = client.export("y", "y", format="onnx", head=name)
    np.testing.assert_allclose(run_onnx(data, rows)["probabilities"], expected, atol=1e-4)
    client.delete("heads", name)


def test_exported_heads_have_what_their_problem_type_needs(client: Stitchwork, pair: Pair) -> None:
    own, rows = weights(pair), pair.x_anchors[:20]
    for problem_type in (MULTI_LABEL, REGRESSION):
        client.put_head("exported", "y", arrays=own, labels=NAMES, problem_type=problem_type)
        data = client.export("x", "y", format="onnx", head="exported")
        outputs = run_onnx(data, rows)
        model = onnx.load_from_string(data)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        assert properties["problem_type"] == problem_type
        predictions = client.classify("exported", rows, "x", top=3)
        if problem_type == REGRESSION:
            assert set(outputs) == {"translated", "defined", "values"}
            expected = [[value["value"] for value in one["values"]] for one in predictions]
            np.testing.assert_allclose(outputs["values"], expected, rtol=1e-3, atol=1e-3)
        else:
            assert properties["thresholds"] == "[0.5,0.5,0.5]"
            expected = [scores_of(one) for one in predictions]
            np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-4)
    client.delete("heads", "exported")


def infer(url: str, name: str, rows: NDArray[Any], **parameters: Any) -> dict[str, Any]:
    """The outputs of a model of the Open Inference Protocol by name."""
    tensor = {"name": "embeddings", "datatype": "FP32", "shape": list(rows.shape)}
    body = {"inputs": [{**tensor, "data": rows.ravel().tolist()}], "parameters": parameters}
    response = httpx.post(f"{url}/v2/models/{name}/infer", json=body)
    assert response.status_code == 200, response.text
    metadata = httpx.get(f"{url}/v2/models/{name}").json()
    outputs = response.json()["outputs"]
    declared = [(output["name"], output["datatype"]) for output in metadata["outputs"]]
    assert [(output["name"], output["datatype"]) for output in outputs] == declared
    return {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in outputs}


def test_inference_protocol_has_the_predictions_of_each_problem_type(
    url: str, client: Stitchwork, pair: Pair
) -> None:
    own, rows = weights(pair), pair.y_anchors[:20]
    client.put_head("kinds", "y", arrays=own, labels=[1, 2, 3], problem_type=MULTI_LABEL)
    outputs = infer(url, "classify:kinds", rows, top=1)
    predictions = client.classify("kinds", rows, "y", top=3)
    width = max(len(one["labels"]) for one in predictions)
    assert outputs["labels"].shape == (20, max(1, width)), "no predicted label is left out"
    for i, one in enumerate(predictions):
        chosen = outputs["labels"][i][outputs["predicted"][i]].tolist()
        assert chosen == [str(entry["label"]) for entry in one["labels"]]
        assert outputs["confidence"][i] == pytest.approx(one["confidence"])
    client.put_head("kinds", "y", arrays=own, labels=NAMES, problem_type=REGRESSION)
    outputs = infer(url, "classify:kinds", rows)
    assert outputs["labels"][0].tolist() == NAMES
    np.testing.assert_allclose(outputs["values"], logits(own, rows), atol=1e-3)
    # As bytes after the JSON, a boolean is one byte.
    client.put_head("kinds", "y", arrays=own, labels=NAMES, problem_type=MULTI_LABEL)
    tensor = {"name": "embeddings", "datatype": "FP32", "shape": list(rows.shape)}
    body = {
        "inputs": [{**tensor, "data": rows.ravel().tolist()}],
        "outputs": [{"name": "predicted", "parameters": {"binary_data": True}}],
        "parameters": {"top": 3},
    }
    response = httpx.post(f"{url}/v2/models/classify:kinds/infer", json=body)
    start = int(response.headers["Inference-Header-Content-Length"])
    flags = np.frombuffer(response.content[start:], np.bool_).reshape(20, 3)
    predictions = client.classify("kinds", rows, "y", top=3)
    assert flags.sum(axis=1).tolist() == [len(one["labels"]) for one in predictions]
    client.delete("heads", "kinds")


def test_evaluation_of_a_multi_label_head_counts_exact_sets_and_f1(
    client: Stitchwork, pair: Pair
) -> None:
    own, rows = weights(pair), pair.y_anchors[:80]
    client.put_head("multi", "y", arrays=own, labels=NAMES, problem_type=MULTI_LABEL)
    truth = logits(own, rows) + np.random.default_rng(0).normal(size=(80, 3)) * 0.3 > 0
    labels = [[name for name, true in zip(NAMES, row, strict=True) if true] for row in truth]
    report = client.evaluate_head("y", "multi", labels, embeddings=rows)
    predicted = scipy.special.expit(logits(own, rows)) >= 0.5
    exact = (predicted == truth).all(axis=1).mean()
    assert report["translated"]["accuracy"] == pytest.approx(exact)
    assert report["native"]["f1"] == pytest.approx(f1_score(truth, predicted, average="micro"))
    assert report["chance"] < exact < 1
    before = client.classify("multi", rows, "y")
    calibrated = client.evaluate_head("y", "multi", labels, embeddings=rows, calibrate=True)
    assert calibrated["confidence"]["calibrated"]
    after = client.classify("multi", rows, "y")
    assert all(one["calibrated"] for one in after)
    assert [one["labels"] for one in before] == [one["labels"] for one in after]
    mean = np.mean([one["confidence"] for one in after])
    assert mean == pytest.approx(exact, abs=0.1)
    with pytest.raises(InvalidInputError, match="expected a list of labels for each input"):
        client.evaluate_head("y", "multi", ["red"] * 80, embeddings=rows)
    client.delete("heads", "multi")


def test_evaluation_of_a_regression_has_its_explained_variance(
    client: Stitchwork, pair: Pair
) -> None:
    own, rows = weights(pair, 2), pair.y_anchors
    client.put_head("values", "y", arrays=own, problem_type=REGRESSION)
    truth = logits(own, rows) + np.random.default_rng(0).normal(size=(len(rows), 2)) * 0.1
    report = client.evaluate_head(
        "x", "values", truth, embeddings=pair.x_anchors, native_embeddings=rows
    )
    expected = r2_score(truth, logits(own, rows), multioutput="variance_weighted")
    native = report["native"]
    assert native["r2"] == pytest.approx(expected, abs=1e-4)
    assert native["mae"] == pytest.approx(mean_absolute_error(truth, logits(own, rows)), abs=1e-4)
    assert native["interval"][0] < native["r2"] < native["interval"][1]
    assert 0 < report["translated"]["r2"] < native["r2"]
    assert report["chance"] == 0.0
    assert report["verdict"] in ("good", "fair")
    assert "confidence" not in report
    with pytest.raises(InvalidInputError, match="no calibrate for a regression"):
        client.evaluate_head("y", "values", truth, embeddings=rows, calibrate=True)
    with pytest.raises(InvalidInputError, match="no min_accuracy for a regression"):
        client.evaluate_head("y", "values", truth, embeddings=rows, min_accuracy=0.9)
    with pytest.raises(InvalidInputError, match="no min_confidence for a regression"):
        client.classify("values", rows, "y", min_confidence=0.9)
    with pytest.raises(InvalidInputError, match="expected numbers, as head values"):
        client.evaluate_head("y", "values", ["a"] * len(rows), embeddings=rows)
    with pytest.raises(InvalidInputError, match="expected 2 numbers"):
        client.evaluate_head("y", "values", truth[:, 0], embeddings=rows)
    with pytest.raises(InvalidInputError, match="that differ between inputs"):
        client.evaluate_head("y", "values", np.ones((len(rows), 2)), embeddings=rows)
    client.delete("heads", "values")


def test_evaluation_of_a_regression_that_knows_nothing_is_poor(
    client: Stitchwork, pair: Pair
) -> None:
    client.put_head("values", "y", arrays=weights(pair, 1), problem_type=REGRESSION)
    truth = np.random.default_rng(0).normal(size=len(pair.y_anchors))
    report = client.evaluate_head("y", "values", truth, embeddings=pair.y_anchors)
    assert report["verdict"] == "poor"
    assert "not significantly better than the mean" in report["reason"]
    client.delete("heads", "values")


def test_layers_in_json_and_safetensors_are_one_head(
    url: str, client: Stitchwork, pair: Pair
) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "0.weight": rng.normal(size=32).astype(np.float32),
        "0.bias": rng.normal(size=32).astype(np.float32),
        "1.weight": rng.normal(size=(6, 32)).astype(np.float32),
        "3.weight": rng.normal(size=(2, 6)).astype(np.float32),
        "3.bias": rng.normal(size=2).astype(np.float32),
    }
    kinds: list[Any] = [{"kind": "layer_norm", "eps": 0.01}, "linear", "gelu", {"kind": "linear"}]
    record = client.put_head("layers", "y", arrays=arrays, layers=kinds, labels=["a", "b"])
    assert record["layers"] == [
        {"kind": "layer_norm", "eps": 0.01},
        {"kind": "linear", "inputs": 32, "outputs": 6},
        {"kind": "gelu"},
        {"kind": "linear", "inputs": 6, "outputs": 2},
    ]
    layers: list[Any] = [
        {"kind": "layer_norm", "eps": 0.01, "weight": arrays["0.weight"], "bias": arrays["0.bias"]},
        {"weight": arrays["1.weight"]},
        "gelu",
        {"weight": arrays["3.weight"], "bias": arrays["3.bias"]},
    ]
    again = client.put_head("layers", "y", layers=layers, labels=["a", "b"])
    assert again["version"] == record["version"]
    plain = [
        {key: value.tolist() if hasattr(value, "tolist") else value for key, value in one.items()}
        if isinstance(one, dict)
        else one
        for one in layers
    ]
    body = {"space": "y", "labels": ["a", "b"], "layers": plain}
    response = httpx.put(f"{url}/heads/layers", json=body)
    assert response.json()["version"] == record["version"]
    meta = {"labels": '["a", "b"]', "layers": '["layer_norm", "linear", "gelu"]'}
    response = httpx.put(
        f"{url}/heads/layers?space=y",
        content=save(arrays, meta),
        headers={"Content-Type": "application/vnd.safetensors"},
    )
    assert response.status_code == 422
    assert "expected tensors of 3 layers" in response.json()["detail"]
    client.delete("heads", "layers")


@pytest.mark.parametrize(
    ("fields", "pointer", "message"),
    [
        ({"problem_type": "ranking"}, "/problem_type", "single_label_classification"),
        ({"thresholds": 0.5}, "/thresholds", "thresholds for a head of multi_label"),
        ({"problem_type": MULTI_LABEL, "thresholds": [0.5]}, "/thresholds", "each of 3 labels"),
        ({"problem_type": MULTI_LABEL, "thresholds": 1.5}, "/thresholds/0", "from 0 to 1"),
        ({"temperature": 0}, "/temperature", "more than 0"),
        ({"problem_type": REGRESSION, "temperature": 2.0}, "/temperature", "no temperature"),
        ({"problem_type": REGRESSION, "labels": ["a"]}, "/labels", "has 3 values, got 1 labels"),
        ({"activation": "relu", "layers": ["relu"]}, None, "expected one of weight"),
    ],
)
def test_field_that_does_not_fit_a_head_is_refused_with_its_place(
    url: str, pair: Pair, fields: dict[str, Any], pointer: str | None, message: str
) -> None:
    weight = weights(pair)["weight"].tolist()
    body = {"space": "y", "weight": weight, "labels": NAMES, **fields}
    response = httpx.put(f"{url}/heads/refused", json=body)
    assert response.status_code == 422
    assert message in response.json()["detail"]
    if pointer:
        assert response.json()["pointer"] == pointer


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["relu"], "at least one linear layer"),
        ([{"weight": [[1.0] * 32] * 3}, "conv"], "layer 1: expected one of linear"),
        ([{"kind": "batch_norm"}, {"weight": [[1.0] * 32] * 3}], "running_mean, running_var"),
        ([{"kind": "layer_norm", "weight": [[1.0] * 32]}, {"weight": [[1.0] * 32] * 3}], "(d,)"),
        ([{"kind": "layer_norm", "eps": -1}, {"weight": [[1.0] * 32] * 3}], "eps as a finite"),
        ([{"weight": [[1.0] * 32] * 3, "size": 3}], "size"),
        ([{"weight": "AAAA"}], "rows of numbers, got a string"),
        ([3], "expected an object, got 3"),
    ],
)
def test_layers_that_are_not_valid_are_refused(url: str, layers: list[Any], message: str) -> None:
    body = {"space": "y", "labels": NAMES, "layers": layers}
    response = httpx.put(f"{url}/heads/refused", json=body)
    assert response.status_code == 422
    assert message in response.json()["detail"]
    assert response.json()["pointer"].startswith("/layers")


def test_command_line_registers_and_shows_heads_of_each_problem_type(
    run: Run, client: Stitchwork, pair: Pair, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from stitchwork.cli.main import main

    own = {name: array.astype(np.float32) for name, array in weights(pair).items()}
    file, rows, labels = (tmp_path / name for name in ("w.safetensors", "rows.npy", "labels.npy"))
    save_file(own, file)
    np.save(rows, pair.y_anchors[:5])
    np.save(labels, np.array([7, 8, 9]))
    words = ["heads", "put", "multi", "--space", "y", "--weights", file, "--labels", labels]
    options = ["--problem-type", MULTI_LABEL, "--thresholds", "0.4,0.5,0.6", "--temperature", 2]
    record = run(*words, *options)
    assert same(record["labels"], [7, 8, 9])
    assert (record["thresholds"], record["temperature"]) == ([0.4, 0.5, 0.6], 2)
    predictions = run("classify", "multi", rows, "--space", "y")
    assert [entry["label"] for one in predictions for entry in one["labels"]]
    assert type(predictions[0]["top"][0]["label"]) is int
    (tmp_path / "labels.json").write_text('["stars", "price", "size"]')
    words[-1] = tmp_path / "labels.json"
    record = run(*words, "--problem-type", REGRESSION)
    assert record["labels"] == ["stars", "price", "size"]
    capsys.readouterr()
    url = str(client._http.base_url)
    assert main(["classify", "multi", str(rows), "--space", "y", "--url", url]) == 0
    table = capsys.readouterr().out
    assert "values" in table
    assert "stars: " in table
    run("heads", "delete", "multi")


def test_warnings_of_predictions_are_logged_once(
    client: Stitchwork, url: str, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.vstack([pair.x[:2], -5 * pair.x[:1]]).astype(np.float32)
    body = {"space": "x", "embeddings": rows.tolist()}
    warnings = httpx.post(f"{url}/classify/h", json=body).json()["warnings"]
    assert warnings
    with caplog.at_level("WARNING", "stitchwork.client"):
        client.classify("h", rows, "x")
    messages = [record.getMessage() for record in caplog.records]
    assert sorted(messages) == sorted(warnings)


def test_native_embeddings_of_a_wrong_width_are_named(client: Stitchwork, pair: Pair) -> None:
    rows = pair.y_anchors
    client.put_head("narrow", "y", arrays=weights(pair, 2), problem_type=REGRESSION)
    truth = logits(weights(pair, 2), rows)
    with pytest.raises(InvalidInputError, match=r"expected native_embeddings of \d+ numbers"):
        client.evaluate_head(
            "x", "narrow", truth, embeddings=pair.x_anchors, native_embeddings=rows[:, 1:]
        )
