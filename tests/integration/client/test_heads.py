"""Heads as their makers have them: probabilities equal those of the maker's own library."""

from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import scipy.special
import torch
from numpy.typing import NDArray
from safetensors.numpy import save, save_file
from sklearn.linear_model import LogisticRegression

from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError
from tests.conftest import Pair
from tests.integration.client.test_commands import Run, run
from tests.support.onnx_models import run_onnx

__all__ = ["run"]

HIDDEN = {"0.weight": np.ones((3, 32), np.float32), "2.weight": np.ones((2, 3), np.float32)}


def probabilities(client: Stitchwork, head: str, rows: NDArray[Any]) -> NDArray[Any]:
    """(n, c) scores in the order of the head's labels."""
    labels = client.get("heads", head)["labels"]
    predictions = client.classify(head, rows, "y", top=len(labels))
    scores = [{one["label"]: one["score"] for one in row["top"]} for row in predictions]
    return np.array([[row[label] for label in labels] for row in scores])


def fitted(pair: Pair) -> tuple[LogisticRegression, NDArray[np.float32]]:
    rows = pair.y_anchors
    targets = np.where(rows @ rows[0] > np.median(rows @ rows[0]), "yes", "no")
    return LogisticRegression(max_iter=1000).fit(rows, targets), rows[:50]


def test_binary_head_equals_predict_proba_of_scikit_learn(client: Stitchwork, pair: Pair) -> None:
    model, rows = fitted(pair)
    labels = model.classes_.tolist()
    weights = {"weight": model.coef_, "bias": model.intercept_}
    record = client.put_head("binary", "y", arrays=weights, labels=labels)
    layers = [{"kind": "linear", "inputs": 32, "outputs": 2}]
    assert (record["labels"], record["layers"]) == (labels, layers)
    expected = model.predict_proba(rows)
    np.testing.assert_allclose(probabilities(client, "binary", rows), expected, atol=1e-6)
    client.delete("heads", "binary")


def test_binary_head_in_json_equals_the_one_in_safetensors(url: str, pair: Pair) -> None:
    model, _ = fitted(pair)
    weight, bias = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
    fields = {"labels": model.classes_.tolist()}
    json = {"space": "y", "weight": weight.tolist(), "bias": bias.tolist(), **fields}
    with httpx.Client(base_url=url) as http:
        first = http.put("/heads/binary", json=json)
        assert first.status_code == 201, first.text
        second = http.put(
            "/heads/binary?space=y",
            content=save({"weight": weight, "bias": bias}, {"labels": '["no", "yes"]'}),
            headers={"Content-Type": "application/vnd.safetensors"},
        )
        assert second.json()["version"] == first.json()["version"]
        http.delete("/heads/binary")


def test_binary_head_by_the_command_line_equals_predict_proba(
    run: Run, client: Stitchwork, tmp_path: Any, pair: Pair
) -> None:
    model, rows = fitted(pair)
    tensors = {"weight": model.coef_, "bias": model.intercept_}
    save_file(tensors, tmp_path / "w.safetensors", {"labels": '["no", "yes"]'})
    run("heads", "put", "binary", "--space", "y", "--weights", tmp_path / "w.safetensors")
    expected = model.predict_proba(rows)
    np.testing.assert_allclose(probabilities(client, "binary", rows), expected, atol=1e-6)
    run("heads", "delete", "binary")


def test_network_with_one_sigmoid_logit_has_its_probability(client: Stitchwork, pair: Pair) -> None:
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(6, 32)), rng.normal(size=(1, 6))
    layers = {"0.weight": first, "2.weight": last, "2.bias": np.array([0.3])}
    client.put_head("sigmoid", "y", arrays=layers, labels=["no", "yes"], activation="tanh")
    rows = pair.y_anchors[:50]
    expected = scipy.special.expit(np.tanh(rows @ first.T) @ last.T + 0.3)[:, 0]
    actual = probabilities(client, "sigmoid", rows)
    np.testing.assert_allclose(actual, np.stack([1 - expected, expected], axis=1), atol=1e-5)
    client.delete("heads", "sigmoid")


@pytest.mark.parametrize("labels", [["yes"], ["a", "b", "c"]])
def test_single_score_without_two_labels_is_refused(client: Stitchwork, labels: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="two labels for a head with a single score"):
        client.put_head("one", "y", weight=np.ones((1, 32)), labels=labels)


def test_layers_without_an_activation_are_refused_with_the_choices(
    url: str, client: Stitchwork
) -> None:
    choices = "2 layers, one of identity, relu, tanh, sigmoid, log_sigmoid, silu, gelu, gelu_tanh"
    with pytest.raises(InvalidInputError, match=choices) as error:
        client.put_head("mlp", "y", arrays=HIDDEN, labels=["a", "b"])
    assert error.value.pointer == "/activation"
    layers = [{"weight": HIDDEN[f"{i}.weight"].tolist()} for i in (0, 2)]
    body: dict[str, Any] = {"space": "y", "layers": layers, "labels": ["a", "b"]}
    response = httpx.put(f"{url}/heads/mlp", json=body)
    assert response.status_code == 422
    assert choices in response.json()["detail"]
    body["activation"] = None
    assert httpx.put(f"{url}/heads/mlp", json=body).status_code == 422
    # A single layer needs none.
    client.put_head("mlp", "y", arrays={"0.weight": HIDDEN["0.weight"]}, labels=["a", "b", "c"])
    client.delete("heads", "mlp")


def test_layers_without_an_activation_are_refused_by_the_command_line(
    run: Run, url: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from stitchwork.cli.main import main

    file = str(tmp_path / "w.safetensors")
    save_file(HIDDEN, file, {"labels": '["a", "b"]'})
    words = ["heads", "put", "mlp", "--space", "y", "--weights", file]
    assert main(words) != 0
    assert "expected an activation between layers 0 and 1 of 2 layers" in capsys.readouterr().err
    kinds = [layer["kind"] for layer in run(*words, "--activation", "silu")["layers"]]
    assert kinds == ["linear", "silu", "linear"]
    run("heads", "delete", "mlp")


LABELS = [
    ([3, 10], [3, 10]),
    ([0, 1], [0, 1]),
    (np.array([3, 10]), [3, 10]),
    ([np.int64(3), np.int64(10)], [3, 10]),
    (torch.tensor([3, 10]), [3, 10]),
    ([-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
    ([False, True], [False, True]),
    (np.array([False, True]), [False, True]),
    (torch.tensor([False, True]), [False, True]),
    (np.array(["no", "yes"]), ["no", "yes"]),
    (np.array(["no", "yes"], object), ["no", "yes"]),
    (["3", "true"], ["3", "true"]),
]


def same(a: Any, b: Any) -> bool:
    """Whether two lists are equal, with equal types: 1 is not True."""
    return bool(a == b) and list(map(type, a)) == list(map(type, b))


@pytest.mark.parametrize(("labels", "sent"), LABELS, ids=str)
def test_labels_of_any_kind_come_back_as_they_were_sent(
    client: Stitchwork, pair: Pair, labels: Any, sent: list[Any]
) -> None:
    weight = torch.tensor(pair.y_anchors[:2], dtype=torch.bfloat16, requires_grad=True)
    record = client.put_head("any", "y", weight=weight, labels=labels)
    assert same(record["labels"], sent)
    rows = pair.y_anchors[:20]
    best = [sent[i] for i in np.argmax(rows @ weight.detach().float().numpy().T, axis=1)]
    predictions = client.classify("any", rows, "y", top=2)
    assert same([one["label"] for one in predictions], best)
    assert same(sorted(one["label"] for one in predictions[0]["top"]), sorted(sent))
    # The truth may be of the labels' type, or their text, as files have it.
    texts = [orjson.dumps(label).decode().strip('"') for label in best]
    for truth in (best, np.array(best), texts):
        report = client.evaluate_head("y", "any", truth, embeddings=rows)
        assert report["translated"]["accuracy"] == 1.0
    client.delete("heads", "any")


def test_integers_of_more_than_64_bits_are_refused_as_labels(url: str) -> None:
    body = b'{"space": "y", "weight": [[1], [2]], "labels": [1, 9223372036854775808]}'
    response = httpx.put(f"{url}/heads/any", content=body)
    assert response.status_code == 422
    assert response.json()["pointer"] == "/labels/1"
    assert "at most 64 bits" in response.json()["detail"]


@pytest.mark.parametrize("labels", [["a", 1], [1, True], [1.5, 2.5], [None, "a"]])
def test_labels_of_several_types_are_refused(client: Stitchwork, labels: list[Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"label|string"):
        client.put_head("any", "y", weight=np.ones((2, 32)), labels=labels)


def test_activations_of_each_layer_equal_torch_by_every_route(
    run: Run, url: str, client: Stitchwork, pair: Pair, tmp_path: Any
) -> None:
    torch.manual_seed(0)
    parts = [torch.nn.Linear(32, 7), torch.nn.Linear(7, 6), torch.nn.Linear(6, 3)]
    module = torch.nn.Sequential(parts[0], torch.nn.ReLU(), parts[1], torch.nn.SiLU(), parts[2])
    state = module.state_dict()
    rows = pair.y_anchors[:30]
    labels = ["a", "b", "c"]
    record = client.put_head("mlp", "y", arrays=state, labels=labels, activation=["relu", "silu"])
    kinds = [layer["kind"] for layer in record["layers"]]
    assert kinds == ["linear", "relu", "linear", "silu", "linear"]
    with torch.no_grad():
        expected = module(torch.from_numpy(rows)).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities(client, "mlp", rows), expected, atol=1e-5)
    # The same by the command line, from metadata and by an option.
    file = tmp_path / "w.safetensors"
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    words = ["heads", "put", "mlp", "--space", "y", "--weights", file]
    meta = {"labels": '["a", "b", "c"]'}
    save_file(tensors, file, {**meta, "activation": '["relu", "silu"]'})
    assert run(*words)["version"] == record["version"]
    save_file(tensors, file, meta)
    assert run(*words, "--activation", "relu,silu")["version"] == record["version"]
    # One name and a list of it are the same head.
    one = client.put_head("mlp", "y", arrays=state, labels=labels, activation="tanh")
    both = client.put_head("mlp", "y", arrays=state, labels=labels, activation=["tanh", "tanh"])
    assert one["version"] == both["version"]
    with pytest.raises(InvalidInputError, match="expected 2 activations"):
        client.put_head("mlp", "y", arrays=state, labels=labels, activation=["relu"])
    client.delete("heads", "mlp")


def test_exported_head_has_the_activation_of_each_layer(client: Stitchwork, pair: Pair) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "0.weight": rng.normal(size=(5, 32)),
        "2.weight": rng.normal(size=(4, 5)),
        "4.weight": rng.normal(size=(2, 4)),
    }
    names = ["tanh", "gelu"]
    client.put_head("mlp", "y", arrays=arrays, labels=["a", "b"], activation=names)
    rows = pair.x_anchors[:20]
    data = client.export("x", "y", format="onnx", head="mlp")
    predictions = client.classify("mlp", rows, "x", top=2)
    scores = [{one["label"]: one["score"] for one in row["top"]} for row in predictions]
    outputs = run_onnx(data, rows)["probabilities"]
    expected = np.array([[row["a"], row["b"]] for row in scores])
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    client.delete("heads", "mlp")
