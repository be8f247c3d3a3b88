"""All faces use one pipeline: each fails if one of its functions is replaced."""

from typing import Any, Final, NamedTuple

import pytest
from starlette.testclient import TestClient

from stitchwork.errors import InvalidInputError
from tests.integration.inference.conftest import LABELS, WIDTH, ok

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
RESOLVE, EMBED, STITCH = "resolve.resolution_of", "embed.embed", "stitch.stitch"
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
