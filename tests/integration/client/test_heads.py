"""Heads as their makers have them: probabilities equal those of the maker's own library."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import scipy.special
from numpy.typing import NDArray
from safetensors.numpy import save, save_file
from sklearn.linear_model import LogisticRegression

from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError
from tests.conftest import Pair
from tests.integration.client.test_commands import Run, run

__all__ = ["run"]

HIDDEN = {"0.weight": np.ones((3, 32), np.float32), "2.weight": np.ones((2, 3), np.float32)}


@pytest.fixture
def client(url: str) -> Iterator[Stitchwork]:
    with Stitchwork(url) as client:
        yield client


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
    assert (record["labels"], record["layers"]) == (labels, [32, 2])
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
    choices = "2 layers, one of identity, relu, tanh, silu, gelu, gelu_tanh"
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
    assert "expected an activation for a head of 2 layers" in capsys.readouterr().err
    assert run(*words, "--activation", "silu")["activation"] == "silu"
    run("heads", "delete", "mlp")
