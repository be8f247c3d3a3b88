"""Refusals of bodies say what was expected, what came and where, in the service's own words."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from tests.conftest import Pair
from tests.integration.api.test_refusals import GOOD, TO_Y, check

TEXT = {"kind": "transformers", "model": "sentence-transformers/all-MiniLM-L6-v2"}
TENSOR = {"name": "embeddings", "shape": [1, 24], "datatype": "FP32", "data": [GOOD]}


@pytest.mark.parametrize(
    ("encoder", "pointer", "detail"),
    [
        (
            {"kind": "gpt"},
            "/kind",
            "encoder.kind: expected 'transformers', 'timm', 'transformers-vision', got 'gpt'",
        ),
        ({"model": "m"}, "/kind", "encoder.kind: expected a value, got none"),
        ("minilm", "", "encoder: expected an object, got 'minilm'"),
        ({"kind": "transformers"}, "/model", "encoder.model: expected a value, got none"),
        ({**TEXT, "pooling": 3}, "/pooling", "got 3"),
        ({**TEXT, "pooling": ["mean", "sum"]}, "/pooling/1", "got 'sum'"),
        ({**TEXT, "modules": "pool"}, "/modules", "expected a list, got 'pool'"),
        ({**TEXT, "max_length": 0}, "/max_length", "expected 1 or more, got 0"),
        ({**TEXT, "max_length": "9"}, "/max_length", "expected a whole number, got '9'"),
        ({**TEXT, "colour": 1}, "/colour", "encoder.colour: unknown field"),
    ],
)
def test_encoder_of_another_form_is_refused_in_words(
    http: httpx.Client, encoder: Any, pointer: str, detail: str
) -> None:
    response = http.put("/spaces/words", json={"anchor_set": "S", "encoder": encoder})
    check(response, 422, f"/encoder{pointer}", detail)


@pytest.mark.parametrize(
    ("fields", "pointer", "detail"),
    [
        ({"activation": 5}, "/activation", "expected a string or a list, got 5"),
        ({"activation": [5]}, "/activation/0", "expected a string, got 5"),
        ({"classifier": "x"}, "/classifier", "expected an object or true, got 'x'"),
        ({"classifier": {"kind": "timm"}}, "/classifier/model", "expected a value, got none"),
        ({"labels": "ab"}, "/labels", "expected a list of labels, got a string"),
        (
            {"labels": ["a", None]},
            "/labels/1",
            "expected a label: a string, an integer or a boolean, got null",
        ),
        ({"layers": [3]}, "/layers/0", "expected an object, got 3"),
        ({"fit": {"labels": ["a"]}}, "/fit", "expected either embeddings or items"),
        (
            {"fit": {"labels": ["a"], "embeddings": [[1.0]]}},
            "/fit",
            "expected labels of at least two classes, got one",
        ),
    ],
)
def test_head_of_another_form_is_refused_in_words(
    http: httpx.Client, fields: dict[str, Any], pointer: str, detail: str
) -> None:
    check(http.put("/heads/words", json={"space": "y", **fields}), 422, pointer, detail)


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ({"inputs": {}}, "/inputs", "expected a list, got an empty object"),
        ({"inputs": []}, "/inputs", "expected at least 1 values, got none"),
        ({"inputs": [{**TENSOR, "data": "abc"}]}, "/inputs/0/data", "expected a list, got 'abc'"),
        ({"inputs": [{**TENSOR, "shape": ["1"]}]}, "/inputs/0/shape/0", "a whole number, got '1'"),
        ({"inputs": [{**TENSOR, "name": 4}]}, "/inputs/0/name", "expected a string, got 4"),
        ({"inputs": [TENSOR], "parameters": {"top": "3"}}, "/parameters/top", "got '3'"),
        ({"inputs": [TENSOR], "parameters": {"timeout": "9"}}, "/parameters/timeout", "got '9'"),
        (
            {"inputs": [TENSOR], "parameters": {"truncate": "yes"}},
            "/parameters/truncate",
            "true or false, got 'yes'",
        ),
    ],
)
def test_inference_request_of_another_form_is_refused_in_words(
    http: httpx.Client, spaces: Pair, body: dict[str, Any], pointer: str, detail: str
) -> None:
    response = http.post("/v2/models/translate:x:y/infer", json=body)
    assert response.status_code == 422
    error = response.json()["error"]
    assert detail in error
    assert f"(at {pointer})" in error
    assert "Input should" not in error


def test_numbers_of_openai_requests_are_not_taken_as_strings(http: httpx.Client) -> None:
    for field, value in (("dimensions", "24"), ("truncate", "yes"), ("truncate", 1)):
        body = {"model": "x", "input": "a", field: value}
        response = http.post("/v1/embeddings", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == field
        assert f"got {value!r}" in response.json()["error"]["message"]


def test_query_parameters_are_refused_in_words(http: httpx.Client, spaces: Pair) -> None:
    check(http.get("/spaces", params={"limit": "ten"}), 422, "/limit", "a whole number, got 'ten'")
    check(http.get("/spaces", params={"limit": "0"}), 422, "/limit", "expected 1 or more, got '0'")
    npy = {"Content-Type": "application/x-npy"}
    response = http.post("/classify/h?space=x&top=ten", content=b"", headers=npy)
    check(response, 400)


@pytest.mark.parametrize(
    ("method", "path", "pointer", "detail"),
    [
        (
            "GET",
            "/compatibility?anchor_set=S&brigde=irp",
            "/brigde",
            "brigde: unknown query parameter, did you mean bridge?, expected some of anchor_set, "
            "bridge, spaces, cursor",
        ),
        ("GET", "/spaces?limt=1", "/limt", "did you mean limit?"),
        ("GET", "/health/ready?worker=1", "/worker", "did you mean workers?"),
        ("GET", "/info?a%2Fb=1", "/a~1b", "a/b: unknown query parameter, expected none"),
        ("DELETE", "/spaces/absent?force=1", "/force", "unknown query parameter, expected none"),
        ("POST", "/translate?zz=1", "/zz", "zz: unknown query parameter, expected none"),
        ("PUT", "/spaces/x?zz=1", "/zz", "zz: unknown query parameter, expected none"),
    ],
)
def test_query_parameter_that_no_route_declares_is_refused(
    http: httpx.Client, spaces: Pair, method: str, path: str, pointer: str, detail: str
) -> None:
    body = {**TO_Y, "embeddings": [GOOD]} if method in ("POST", "PUT") else None
    check(http.request(method, path, json=body), 422, pointer, detail)


@pytest.mark.parametrize("path", ["/v1/models?zz=1", "/v2?zz=1", "/openapi.json?zz=1", "/?zz=1"])
def test_query_parameter_of_another_protocol_or_a_page_is_ignored(
    http: httpx.Client, path: str
) -> None:
    assert http.get(path).status_code == 200


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", '"ISO-8859-1"', "cp1252"])
def test_body_in_another_charset_is_refused(http: httpx.Client, spaces: Pair, charset: str) -> None:
    body = json.dumps({**TO_Y, "embeddings": [GOOD]}).encode()
    headers = {"Content-Type": f"application/json; charset={charset}"}
    check(http.post("/translate", content=body, headers=headers), 415, detail="UTF-8")
    content = json.dumps({"inputs": [TENSOR]}).encode()
    path = "/v2/models/translate:x:y/infer"
    assert http.post(path, content=content, headers=headers).status_code == 415
    for accepted in ("utf-8", "UTF-8", '"utf-8"'):
        headers = {"Content-Type": f"application/json; charset={accepted}"}
        assert http.post("/translate", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/anchor-sets/one", {"modality": "text", "items": "a text"}, "/items"),
        ("/anchor-sets/one", {"ids": ["a"]}, "/ids"),
        ("/anchor-sets/one", {"items": ["a", "b"], "modality": "text", "ids": ["a"]}, "/ids"),
        ("/anchor-sets/one", {"ids": ["a", "b"], "size": 3}, "/size"),
        ("/spaces/one", {"anchor_set": "one", "anchors": [GOOD]}, "/anchors"),
        ("/spaces/one", {"anchor_set": "one", "anchors": [GOOD] * 2, "ids": ["a"]}, "/anchors"),
    ],
)
def test_wrong_number_of_anchors_is_refused_at_its_field(
    http: httpx.Client, path: str, body: dict[str, Any], pointer: str
) -> None:
    check(http.put(path, json=body), 422, pointer)


def test_space_on_an_undeclared_set_says_that_it_created_the_set(
    http: httpx.Client, pair: Pair
) -> None:
    body = {"anchor_set": "mistyped", "anchors": pair.x_anchors.tolist()}
    created = http.put("/spaces/creator", json=body)
    assert created.status_code == 201
    (warning,) = created.json()["warnings"]
    assert "anchor set mistyped was not declared" in warning
    assert http.get("/anchor-sets/mistyped").json()["size"] == len(pair.x_anchors)
    assert http.put("/spaces/creator", json=body).json()["warnings"] == []
    second = http.put("/spaces/second", json={**body, "anchors": pair.x_anchors.tolist()})
    assert not any("not declared" in warning for warning in second.json()["warnings"])
    for path in ("/spaces/creator", "/spaces/second", "/anchor-sets/mistyped"):
        assert http.delete(path).status_code == 204


def test_hub_model_that_is_not_allowed_is_refused_at_once(
    http: httpx.Client, spaces: Pair, pair: Pair
) -> None:
    texts = {"modality": "text", "items": ["a", "b", "c"]}
    assert http.put("/anchor-sets/foreign-words", json=texts).status_code == 201
    encoder = {"kind": "transformers", "model": "somebody/anything"}
    for body in (
        {"anchor_set": "foreign-words", "encoder": encoder},
        {"anchor_set": "S", "encoder": encoder, "anchors": pair.x_anchors.tolist()},
    ):
        response = http.put("/spaces/foreign", json=body)
        check(response, 422, "/encoder/model", "hub_models allows: timm/*, sentence-transformers/*")
        assert response.json()["code"] == "model-not-allowed"
    response = http.put("/heads/foreign", json={"space": "y", "classifier": encoder})
    check(response, 422, "/classifier/model", "hub_models")
    images = {"kind": "timm", "model": "hf-hub:somebody/anything"}
    for path, field in (("/spaces/foreign", "encoder"), ("/heads/foreign", "classifier")):
        body = {"anchor_set": "S"} if field == "encoder" else {"space": "y"}
        response = http.put(path, json={**body, field: images})
        check(response, 422, f"/{field}/model", "hub model somebody/anything is not allowed")
    for path in ("/spaces/foreign", "/heads/foreign"):
        assert http.get(path).status_code == 404
    assert http.delete("/anchor-sets/foreign-words").status_code == 204


LOCAL = {"kind": "timm", "model": "resnet18", "weights": "/models/resnet18.safetensors"}
ONE_LAYER = {"space": "x", "labels": ["a", "b"], "layers": [{"weight": [GOOD, GOOD]}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "detail"),
    [
        ("PUT", "/spaces/u", {"encoder": LOCAL, "scale": 2.0}, "anchors with scale, got none"),
        ("PUT", "/spaces/u", {"encoder": LOCAL, "ids": ["a", "b"]}, "anchors with ids, got none"),
        (
            "PUT",
            "/spaces/u",
            {"encoder": LOCAL, "encoding_format": "base64"},
            "anchors with encoding_format, got none",
        ),
        (
            "PUT",
            "/spaces/u",
            {"encoder": {**LOCAL, "revision": "main"}},
            "revision: expected none for local files",
        ),
        ("PUT", "/heads/u", {**ONE_LAYER, "bias": [0.0, 1.0]}, "a weight with bias, got none"),
        (
            "PUT",
            "/heads/u",
            {"space": "x", "labels": ["a", "b"], "weight": [GOOD, GOOD], "activation": "relu"},
            "layers with activation, got none",
        ),
        ("PUT", "/heads/u", {"space": "x", "classifier": True, "bias": [0.0]}, "with bias"),
        (
            "PUT",
            "/heads/u",
            {"space": "x", "classifier": {**TEXT, "model": "/m", "revision": "main"}},
            "revision: expected none for local files",
        ),
        (
            "PUT",
            "/heads/u",
            {
                "space": "x",
                "fit": {"labels": ["a", "b"], "items": ["a", "b"], "encoding_format": "base64"},
            },
            "embeddings with encoding_format, got none",
        ),
        ("POST", "/embed/x", {"items": ["a"], "bridge": "ridge"}, "a target with bridge, got none"),
        (
            "POST",
            "/embed/x?target=y",
            {"items": ["a"]},
            "expected target in the JSON body, got it in the query",
        ),
        (
            "POST",
            "/compatibility/x/h",
            {"embeddings": [GOOD], "labels": ["a"], "truncate": True},
            "items with truncate, got none",
        ),
        (
            "POST",
            "/embed/pictures",
            {"items": ["aGk="], "truncate": True},
            "expected truncate with texts, space pictures embeds images",
        ),
        (
            "POST",
            "/stitch/pictures/h",
            {"items": ["aGk="], "truncate": True},
            "expected truncate with texts, space pictures embeds images",
        ),
    ],
)
def test_field_that_nothing_would_use_is_refused_by_name(
    http: httpx.Client, spaces: Pair, method: str, path: str, body: dict[str, Any], detail: str
) -> None:
    if "pictures" in path:
        anchors = spaces.x_anchors.tolist()
        space = {"anchor_set": "S", "encoder": LOCAL, "anchors": anchors}
        http.put("/spaces/pictures", json=space).raise_for_status()
        head = {"space": "x", "labels": ["a", "b"], "weight": [GOOD, GOOD]}
        http.put("/heads/h", json=head).raise_for_status()
    if path.startswith("/spaces"):
        body = {"anchor_set": "S", **body}
    check(http.request(method, path, json=body), 422, detail=detail)


def test_field_in_the_query_and_in_the_body_is_refused(http: httpx.Client, spaces: Pair) -> None:
    rows = np.array([GOOD], np.float32)
    data = save({"embeddings": rows}, {"source": "x", "target": "y"})
    headers = {"Content-Type": "application/vnd.safetensors"}
    response = http.post("/translate?target=x", content=data, headers=headers)
    check(response, 422, detail="'target' once, got it in the query and in the body")
    assert response.json()["code"] == "duplicate-key"


@pytest.mark.parametrize(
    ("path", "body", "pointer", "detail"),
    [
        ("/embed/x", {"inputs": ["a"]}, "/items", "inputs is unknown, did you mean items?"),
        ("/embed/x", {"texts": ["a"]}, "/items", "texts is unknown, did you mean items?"),
        (
            "/translate",
            {"source": "x", "target": "y", "vectors": [[1]], "embedding": [[1]]},
            "/embeddings",
            "embedding is unknown, did you mean embeddings?",
        ),
        (
            "/embed/x",
            {"items": ["a"], "trunkate": True},
            "/trunkate",
            "unknown field, did you mean truncate?, expected some of",
        ),
        ("/embed/x", {"items": ["a"], "q": 1}, "/q", "q: unknown field, expected some of"),
    ],
)
def test_field_by_another_name_is_recognised(
    http: httpx.Client, path: str, body: dict[str, Any], pointer: str, detail: str
) -> None:
    check(http.post(path, json=body), 422, pointer, detail)


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/spaces/nearestt", "no space nearestt is registered; did you mean nearest?"),
        ("/spaces/0000", "no space 0000 is registered"),
        (
            "/anchor-sets/nearest-sets",
            "no anchor set nearest-sets is registered; did you mean nearest-set?",
        ),
    ],
)
def test_unknown_id_is_answered_with_the_nearest(
    http: httpx.Client, pair: Pair, path: str, detail: str
) -> None:
    body = {"anchor_set": "nearest-set", "anchors": pair.x_anchors.tolist()}
    assert http.put("/spaces/nearest", json=body).is_success
    response = http.get(path)
    assert response.status_code == 404
    assert response.json()["detail"].endswith(detail)


@pytest.mark.parametrize(
    "path",
    ["/spaces?limit=1&limit=2", "/compatibility?anchor_set=S&anchor_set=T", "/heads?a=1&a=2"],
)
def test_query_that_repeats_a_parameter_is_refused(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert (response.status_code, response.json()["code"]) == (422, "duplicate-key")
