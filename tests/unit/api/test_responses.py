"""Responses as JSON: which fields they have, and how rows are encoded."""

import asyncio
import base64
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from safetensors.numpy import load
from starlette.requests import Request
from starlette.responses import Response

from stitchwork.api.content import negotiation, sliced_json
from stitchwork.api.resource_routes import resource_response
from stitchwork.api.schemas.responses import (
    ClassifyResponse,
    EmbedResponse,
    HeadResponse,
    RegistrationResponse,
    ResourceRef,
    SpaceResponse,
)
from stitchwork.geometry.bridges import BRIDGES
from stitchwork.inference.predictions import LabelScore, Prediction
from stitchwork.registry.entries import Entry, Outcome
from stitchwork.resources import (
    BridgeParameters,
    Head,
    LinearLayer,
    Registration,
    Space,
    TextEncoder,
)

ROWS = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)
SPACE = Space(
    id="x",
    version="v1",
    anchor_set="S",
    anchor_set_version="s1",
    dim=2,
    size=3,
    encoder=TextEncoder(model="some/model"),
    rank=2,
    condition_number=1.5,
    norm_mean=1.0,
    norm_std=0.1,
)
REGISTRATION = Registration(
    kind="space", id="x", version="v2", parent="anchor-set:S", done=1, total=3
)


def render(value: Any) -> Any:
    return orjson.loads(sliced_json.to_json(value))


def request(accept: str) -> Request:
    return Request({"type": "http", "headers": [(b"accept", accept.encode())]})


def body(response: Response) -> bytes:
    async def get() -> bytes:
        transport = httpx.ASGITransport(response)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return (await client.get("/")).content

    return asyncio.run(get())


def embed_response() -> EmbedResponse:
    encoder = ResourceRef(id="x", version="v1")
    return EmbedResponse(embeddings=ROWS, encoder=encoder, truncated=[1], warnings=[])


def test_fields_that_are_not_set_are_left_out() -> None:
    assert render(embed_response()) == {
        "embeddings": ROWS.tolist(),
        "encoder": {"id": "x", "version": "v1"},
        "truncated": [1],
        "warnings": [],
    }


def test_fields_that_are_set_to_none_are_null() -> None:
    response = RegistrationResponse(
        id="x",
        version="v2",
        status="pending",
        progress={"done": 0, "total": 3},
        reason=None,
    )
    assert render(response)["reason"] is None
    assert "outcome" not in render(response)


def test_predictions_are_rendered_as_objects() -> None:
    top: list[LabelScore] = [{"label": "a", "score": 0.75}, {"label": "b", "score": 0.25}]
    prediction = Prediction("a", 0.75, top, 0.5, False, False)
    response = ClassifyResponse(
        predictions=[prediction],
        space=ResourceRef(id="x", version="v1"),
        head=ResourceRef(id="h", version="w1"),
        bridge="exp",
        uncovered=[],
        warnings=[],
    )
    assert response.predictions[0] is prediction, "large lists are neither copied nor validated"
    assert render(response)["predictions"] == [
        {
            "label": "a",
            "score": 0.75,
            "top": [{"label": "a", "score": 0.75}, {"label": "b", "score": 0.25}],
            "confidence": 0.5,
            "calibrated": False,
            "abstained": False,
        }
    ]


def test_base64_rows_are_little_endian_float32() -> None:
    response = negotiation.rows_response(
        request(negotiation.JSON), embed_response(), as_base64=True
    )
    encoded = orjson.loads(body(response))["embeddings"]
    rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in encoded]
    np.testing.assert_array_equal(rows, ROWS)


def test_safetensors_response_has_the_other_fields_as_metadata() -> None:
    response = negotiation.rows_response(request(negotiation.SAFETENSORS), embed_response())
    data = body(response)
    np.testing.assert_array_equal(load(data)["embeddings"], ROWS)
    header = orjson.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = {name: orjson.loads(value) for name, value in header["__metadata__"].items()}
    encoder = {"id": "x", "version": "v1"}
    assert metadata == {"encoder": encoder, "truncated": [1], "warnings": []}


def test_ready_resource_has_all_fields_of_its_record() -> None:
    rendered = render(resource_response(SpaceResponse, Entry("x", SPACE)))
    assert rendered.pop("bridges").keys() == set(BRIDGES)
    assert rendered == {**SPACE.model_dump(mode="json"), "status": "ready"}


def test_ready_space_has_the_values_that_each_bridge_uses() -> None:
    parameters = BridgeParameters(shrinkage=0.5, whitening=0.3, landmarks=64, delta=0.4, omega=2)
    space = SPACE.model_copy(update={"parameters": parameters})
    bridges = render(resource_response(SpaceResponse, Entry("x", space)))["bridges"]
    assert bridges["exp"] == {
        "read": {"landmarks": 64},
        "write": {"shrinkage": 0.5, "whitening": 0.3},
    }
    assert bridges["irp"] == {"read": {}, "write": {"delta": 0.4, "omega": 2}}


def test_ready_resource_names_the_registration_that_is_to_replace_it() -> None:
    entry = Entry("x", SPACE, REGISTRATION)
    rendered = render(resource_response(SpaceResponse, entry, Outcome.ACCEPTED))
    assert (rendered["version"], rendered["outcome"]) == ("v1", "accepted")
    assert rendered["pending"] == {
        "version": "v2",
        "status": "pending",
        "progress": {"done": 1, "total": 3},
    }


def test_resource_without_a_ready_version_is_its_registration() -> None:
    failed = REGISTRATION.model_copy(update={"status": "failed", "reason": "no such model"})
    entry: Entry[Space] = Entry("x", None, failed)
    assert render(resource_response(SpaceResponse, entry)) == {
        "id": "x",
        "version": "v2",
        "status": "failed",
        "progress": {"done": 1, "total": 3},
        "reason": "no such model",
    }


def test_value_without_json_is_an_error() -> None:
    with pytest.raises(TypeError, match="set"):
        sliced_json.to_json({"labels": {"a"}})


def test_head_response_keeps_many_labels() -> None:
    labels = tuple(f"class {i}" for i in range(1000))
    head = Head(
        id="h",
        version="w1",
        space="x",
        dim=2,
        labels=labels,
        layers=(LinearLayer(inputs=2, outputs=1000),),
        source="weights",
    )
    response: Any = resource_response(HeadResponse, Entry("h", head))
    assert response.labels is head.labels, "records are not validated again"
    assert render(response)["labels"] == list(labels)


@pytest.mark.parametrize("count", [5, 3_000])
@pytest.mark.parametrize("as_base64", [False, True])
def test_rows_of_blank_texts_are_null_whole_and_in_slices(count: int, as_base64: bool) -> None:
    rows = np.ones((count, 64), np.float32)
    nulls = {0, 3, count - 1}
    response = EmbedResponse(
        embeddings=rows, encoder=ResourceRef(id="x", version="v"), truncated=[], warnings=[]
    )
    answer = negotiation.rows_response(request("*/*"), response, as_base64=as_base64, nulls=nulls)
    embeddings = orjson.loads(body(answer))["embeddings"]
    assert len(embeddings) == count
    assert {i for i, row in enumerate(embeddings) if row is None} == nulls
