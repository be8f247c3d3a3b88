"""Heads that a worker fits: labels come back as they were sent."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from stitchwork.client import Stitchwork
from tests.conftest import Pair
from tests.integration.client.test_heads import same
from tests.support.running_service import SharedService


@pytest.fixture
def client(shared_service: SharedService, pair: Pair) -> Iterator[Stitchwork]:
    """A client of a service with a worker, and a space in it."""
    with Stitchwork(shared_service.running.url) as client:
        client.put_space("fitted-y", "fitted", anchors=pair.y_anchors)
        yield client


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([10, 9]), [9, 10]),
        (torch.tensor([True, False]), [False, True]),
        (["b", "a"], ["a", "b"]),
    ],
    ids=str,
)
def test_labels_of_a_fitted_head_come_back_as_they_were_sent(
    client: Stitchwork, pair: Pair, labels: Any, expected: list[Any]
) -> None:
    rows = pair.y_anchors[:40]
    classes = (rows @ rows[0] > np.median(rows @ rows[0])).astype(int)
    chosen = [labels[i] for i in classes]
    truth: Any = torch.stack(chosen) if isinstance(labels, torch.Tensor) else chosen
    client.put_head("fitted", "fitted-y", arrays={"embeddings": rows}, labels=truth)
    record = client.wait("heads", "fitted")
    assert same(record["labels"], expected)
    predicted = [one["label"] for one in client.classify("fitted", rows, "fitted-y")]
    assert {type(label) for label in predicted} == {type(expected[0])}
    report = client.evaluate_head("fitted-y", "fitted", truth, embeddings=rows)
    assert report["translated"]["accuracy"] == record["train_accuracy"] > 0.9
    client.delete("heads", "fitted")


def test_evaluation_on_rows_that_a_head_was_fitted_on_warns_with_their_number(
    client: Stitchwork, pair: Pair
) -> None:
    rows, others = pair.y_anchors[:40], pair.y_anchors[40:60]
    labels = (pair.y_anchors @ rows[0] > np.median(rows @ rows[0])).astype(int).tolist()
    client.put_head("fitted", "fitted-y", arrays={"embeddings": rows}, labels=labels[:40])
    client.wait("heads", "fitted")

    def warnings(sample: np.ndarray[Any, np.dtype[np.float32]], truth: list[int]) -> list[str]:
        report = client.evaluate_head("fitted-y", "fitted", truth, embeddings=sample)
        return [text for text in report["warnings"] if "was fitted on" in text]

    (message,) = warnings(pair.y_anchors[30:60], labels[30:60])
    assert message.startswith("10 of the 30 inputs are among those that head fitted was fitted on:")
    assert warnings(others, labels[40:60]) == []
    (message,) = warnings(rows * np.float32(1 + 1e-7), labels[:40])
    assert "of the 40 inputs are among those" in message
    client.delete("heads", "fitted")
