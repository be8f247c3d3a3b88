"""All faces use one pipeline: each fails if one of its functions is replaced."""

import threading
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
import redis
from starlette.testclient import TestClient

from stitchwork.api.app import create_app
from stitchwork.api.middleware.auth import check_keys
from stitchwork.bootstrap import api as api_bootstrap
from stitchwork.bootstrap import worker as worker_bootstrap
from stitchwork.errors import InvalidInputError
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.settings import Settings
from tests.support.servers import ServerProcess
from tests.support.waiting import wait_until

TEXTS: Final = [f"{verb} the {noun}" for verb in ("open", "close", "find") for noun in "abcdefgh"]
WIDTH: Final = 32
LABELS: Final = ["left", "right"]
REPLACED: Final = "this function was replaced"


class Face(NamedTuple):
    """One way to use the service.

    Attributes:
        path: Of a POST.
        body: Its JSON.
        steps: The functions of the pipeline that it calls.
    """

    path: str
    body: dict[str, Any]
    steps: frozenset[str]


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}


ROW: Final = [0.1 * i for i in range(384)]
ROWS: Final = [ROW, ROW[::-1]]
ITEMS: Final = ["a text", "another"]
SAMPLE: Final = {"labels": LABELS, "native_embeddings": [[1.0] * WIDTH] * 2}
FLAT: Final = [value for row in ROWS for value in row]
RESOLVE, EMBED, STITCH = "resolve.resolve", "embed.embed", "stitch.stitch"
TRANSLATE, CLASSIFY, PREDICT = "stitch.translate", "stitch.classify", "predictions.predict"
ON_ROWS: Final = frozenset({RESOLVE, STITCH, TRANSLATE})
ON_ITEMS: Final = frozenset({RESOLVE, STITCH, TRANSLATE, EMBED})
FACES: Final = {
    "REST translate": Face(
        "/translate", {"source": "texts", "target": "other", "embeddings": ROWS}, ON_ROWS
    ),
    "REST classify": Face(
        "/classify/head", {"space": "texts", "embeddings": ROWS}, ON_ROWS | {CLASSIFY, PREDICT}
    ),
    "REST embed": Face("/embed/texts", {"items": ITEMS, "target": "other"}, ON_ITEMS),
    "REST stitch": Face("/stitch/texts/head", {"items": ITEMS}, ON_ITEMS | {CLASSIFY, PREDICT}),
    "compatibility of embeddings": Face(
        "/compatibility/texts/head", {**SAMPLE, "embeddings": ROWS}, ON_ROWS | {CLASSIFY}
    ),
    "compatibility of items": Face(
        "/compatibility/texts/head", {**SAMPLE, "items": ITEMS}, ON_ITEMS | {CLASSIFY}
    ),
    "OpenAI embeddings": Face(
        "/v1/embeddings", {"model": "texts->other", "input": ITEMS}, ON_ITEMS
    ),
    "KServe translate": Face(
        "/v2/models/translate:texts:other/infer",
        tensor("embeddings", "FP32", [2, 384], FLAT),
        ON_ROWS,
    ),
    "KServe classify": Face(
        "/v2/models/classify:texts:head/infer",
        tensor("embeddings", "FP32", [2, 384], FLAT),
        ON_ROWS | {CLASSIFY, PREDICT},
    ),
    "KServe embed": Face(
        "/v2/models/embed:texts:other/infer", tensor("items", "BYTES", [2], ITEMS), ON_ITEMS
    ),
    "KServe stitch": Face(
        "/v2/models/stitch:texts:head/infer",
        tensor("items", "BYTES", [2], ITEMS),
        ON_ITEMS | {CLASSIFY, PREDICT},
    ),
}
CASES: Final = [(face, step) for face, case in FACES.items() for step in sorted(case.steps)]


def ok(response: Any) -> Any:
    assert response.is_success, response.text
    return response.json()


@pytest.fixture(scope="module")
def client(registry_process: ServerProcess, queue_process: ServerProcess) -> Iterator[TestClient]:
    """An API and a worker in this process, with two spaces and a head."""
    for process in (registry_process, queue_process):
        with redis.Redis.from_url(process.url) as server:
            server.flushall()
    settings = Settings(
        redis_url=registry_process.url,
        queue_url=queue_process.url,
        model_roots=(minilm_folder(),),
        offline=True,
        compile_models=False,
        device="cpu",
    )
    worker = worker_bootstrap.make_worker(settings)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        state = api_bootstrap.make_app_state(settings)
        check_keys(state.api_keys, settings.host)
        with TestClient(create_app(state)) as client:
            register(client)
            yield client
    finally:
        worker.stop()
        thread.join()


def register(client: TestClient) -> None:
    ok(client.put("/anchor-sets/set", json={"modality": "text", "items": TEXTS}))
    encoder = {"kind": "transformers", "model": str(minilm_folder())}
    ok(client.put("/spaces/texts", json={"anchor_set": "set", "encoder": encoder}))
    wait_until("it is ready", lambda: ok(client.get("/spaces/texts"))["status"] == "ready")
    rows = np.array(ok(client.post("/embed/texts", json={"items": TEXTS}))["embeddings"])
    other = rows @ np.random.default_rng(0).normal(size=(384, WIDTH))
    ok(client.put("/spaces/other", json={"anchor_set": "set", "anchors": other.tolist()}))
    weight = np.random.default_rng(1).normal(size=(2, WIDTH)).tolist()
    head = {"space": "other", "labels": LABELS, "weight": weight, "bias": [0.0, 0.0]}
    ok(client.put("/heads/head", json=head))


@pytest.mark.parametrize("face", FACES)
def test_face_with_the_original_pipeline_succeeds(client: TestClient, face: str) -> None:
    case = FACES[face]
    ok(client.post(case.path, json=case.body))


@pytest.mark.parametrize(("face", "step"), CASES, ids=[f"{f}, {s}" for f, s in CASES])
def test_face_with_one_step_replaced_fails(
    client: TestClient, face: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(*arguments: Any, **options: Any) -> Any:
        raise InvalidInputError(REPLACED)

    monkeypatch.setattr(f"stitchwork.inference.{step}", replaced)
    case = FACES[face]
    response = client.post(case.path, json=case.body)
    assert response.is_client_error
    assert REPLACED in response.text
