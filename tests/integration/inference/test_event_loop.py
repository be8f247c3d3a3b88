"""Large responses are computed in a thread of the executor, small ones on the event loop."""

import threading
from typing import Any, Final

import pytest
from starlette.testclient import TestClient

from tests.integration.inference.conftest import MANY_LABELS, ThreadRecordingMetrics, ok

ITEMS: Final = [f"text {i}" for i in range(64)]
STITCH: Final = "/stitch/texts/{head}"
KSERVE_STITCH: Final = "/v2/models/stitch:texts:{head}/infer"


def stitch_body(items: list[str], top: int) -> dict[str, Any]:
    return {"items": items, "top": top}


def kserve_body(items: list[str], top: int) -> dict[str, Any]:
    spec = {"name": "items", "datatype": "BYTES", "shape": [len(items)], "data": items}
    return {"inputs": [spec], "parameters": {"top": top}}


def event_loop_thread(client: TestClient) -> int:
    assert client.portal is not None
    return client.portal.call(threading.get_ident)


def test_stitch_of_many_scores_is_rendered_beside_the_event_loop(
    client: TestClient, metrics: ThreadRecordingMetrics
) -> None:
    calls = len(metrics.prediction_threads)
    body = ok(client.post(STITCH.format(head="many"), json=stitch_body(ITEMS, 300)))
    assert [len(prediction["top"]) for prediction in body["predictions"]] == [300] * 64
    assert {best["label"] for best in body["predictions"][0]["top"]} == set(MANY_LABELS)
    (thread,) = metrics.prediction_threads[calls:]
    assert thread != event_loop_thread(client)


def test_kserve_stitch_of_many_scores_is_rendered_beside_the_event_loop(
    client: TestClient, metrics: ThreadRecordingMetrics
) -> None:
    calls = len(metrics.prediction_threads)
    body = ok(client.post(KSERVE_STITCH.format(head="many"), json=kserve_body(ITEMS, 300)))
    assert [output["shape"] for output in body["outputs"]] == [[64, 300], [64, 300], [64]]
    (thread,) = metrics.prediction_threads[calls:]
    assert thread != event_loop_thread(client)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (STITCH.format(head="head"), stitch_body(ITEMS[:2], 2)),
        (KSERVE_STITCH.format(head="head"), kserve_body(ITEMS[:2], 2)),
    ],
    ids=["REST", "KServe"],
)
def test_stitch_of_few_scores_is_rendered_on_the_event_loop(
    client: TestClient, metrics: ThreadRecordingMetrics, path: str, body: dict[str, Any]
) -> None:
    calls = len(metrics.prediction_threads)
    ok(client.post(path, json=body))
    assert metrics.prediction_threads[calls:] == [event_loop_thread(client)]
