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
