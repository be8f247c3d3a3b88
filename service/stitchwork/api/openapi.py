"""The OpenAPI document: bodies that routes parse themselves, error formats and scopes."""

import re
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from stitchwork.api import access
from stitchwork.api.content import negotiation
from stitchwork.api.request_lifetime import TIMEOUT_PARAMETER
from stitchwork.api.schemas.report_responses import ReportProgressResponse
from stitchwork.api.schemas.request_model import RequestModel
from stitchwork.errors import UNSERVED_CODES, ErrorCode

REF: Final = "#/components/schemas/{model}"
PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was expected, and what came."},
        "code": {
            "type": "string",
            "description": "Stable name of the condition; a later release may add some.",
            "examples": [code for code in ErrorCode if code not in UNSERVED_CODES],
        },
        "pointer": {"type": "string", "description": "JSON pointer to the offending value."},
        "max_items": {
            "type": "integer",
            "description": "With code `queue-full` or `queue-bytes-full`: the largest number of "
            "items that a request like this may have at the moment; 0: none, try again later.",
        },
        "request_id": {"type": "string"},
    },
}

OPENAI_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What was expected, and what came."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The offending field."},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
INFERENCE_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "description": "What was expected, what came, and where."}
    },
}
TEI_ERROR: Final = {
    "type": "object",
    "required": ["error", "error_type"],
    "properties": {
        "error": {"type": "string", "description": "What was expected, what came, and where."},
        "error_type": {"type": "string", "enum": ["Backend", "Overloaded", "Validation"]},
    },
}
ERRORS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "/v1": (negotiation.JSON, "OpenAIError", OPENAI_ERROR),
    "/v2": (negotiation.JSON, "InferenceError", INFERENCE_ERROR),
    "/tei": (negotiation.JSON, "TextEmbeddingsInferenceError", TEI_ERROR),
}
"""Media type, name and schema of errors by the first segment of a path; else problem+json."""

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
Responses = dict[int | str, dict[str, Any]]

_COMMON: Final = {422: "A value is invalid", 503: "A part of the service is unavailable"}
_OF_BODIES: Final = {
    400: "The bytes cannot be parsed",
    404: "A resource that the request names is not registered",
    408: "The body arrived too slowly",
    409: "The request contradicts what is registered",
    413: "More than one request may hold",
    415: "An unsupported format",
}
_OF_KEYS: Final = {
    401: "No key, or one that is unknown, removed or expired",
    403: "A key without a required scope",
    429: "Too many requests, or too much at once; Retry-After says when to try again",
}
_OF_CONDITIONS: Final = {409: _OF_BODIES[409], 412: "The current version is another one"}
_OF_INFERENCE: Final = {
    404: _OF_BODIES[404],
    409: _OF_BODIES[409],
    504: "No result before the timeout",
}


REPORT_RESPONSES: Final[Responses] = {
    202: {
        "description": "It is computed; the same request returns it later",
        "model": ReportProgressResponse,
        "headers": {
            "Location": {"description": "This URL.", "schema": {"type": "string"}},
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
        },
    }
}
"""The responses of a report besides the report."""


def rows(model: type[BaseModel]) -> Responses:
    """The responses of a route that returns rows in the format that `Accept` selects."""
    return {
        200: {
            "description": "Rows under `embeddings` and the resources used; `Accept` selects the "
            "format.",
            "model": model,
            "content": dict.fromkeys(negotiation.BINARY, _BINARY),
        }
    }


def put(model: type[BaseModel], *, pending: type[BaseModel] | None = None) -> Responses:
    """The responses of a PUT or POST of a resource.

    Args:
        model: The resource.
        pending: The resource while a worker prepares it, if workers do.
    """
    responses: Responses = {
        200: {
            "description": "Replaced, or registered before with the same content",
            "model": model,
        },
        201: {"description": "Registered and ready", "model": model},
    }
    if pending:
        responses[202] = {
            "description": "A worker prepares it; the record shows the progress",
            "model": model | pending,
        }
    return responses


_bodies: dict[str, type[RequestModel]] = {}
_array_fields: dict[str, str] = {}
"""Fields of the arrays in safetensors or .npy bodies, by the names of the bodies' models."""


def body(
    model: type[RequestModel],
    *,
    array_field: str | None = None,
    accepts_raw_inputs: bool = False,
    octets: bool = False,
    required: bool = True,
) -> dict[str, Any]:
    """The OpenAPI description of a route's body.

    Args:
        model: Schema of the JSON.
        array_field: Field of the array in a safetensors or .npy body, whose other fields are query
            parameters; None if the route refuses them.
        accepts_raw_inputs: Whether raw inputs may come as multipart or NDJSON.
        octets: Whether bytes may follow the JSON.
        required: Whether there must be one.
    """
    _bodies[model.__name__] = model
    if array_field:
        _array_fields[model.__name__] = array_field
    content: dict[str, Any] = {
        negotiation.JSON: {"schema": {"$ref": REF.format(model=model.__name__)}}
    }
    if model.example:
        content[negotiation.JSON]["example"] = model.example
    if array_field:
        description = (
            f"`{array_field}` as an array; the other fields as query parameters or, in "
            "safetensors, as JSON in its metadata."
        )
        schema = {"type": "string", "format": "binary", "description": description}
        content |= {media: {"schema": schema} for media in negotiation.BINARY}
    if octets:
        content[negotiation.OCTETS] = _BINARY
    if accepts_raw_inputs:
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        content[negotiation.NDJSON] = {"schema": {"type": "string"}}
        content[negotiation.MULTIPART] = {
            "schema": {"type": "object", "properties": {"items": files}, "required": ["items"]}
        }
    return {"requestBody": {"required": required, "content": content}}


def with_timeout(operation: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The description of an operation, with the header `X-Request-Timeout` added."""
    operation = operation or {}
    return {**operation, "parameters": [TIMEOUT_PARAMETER, *operation.get("parameters", ())]}


def with_octets(model: type[BaseModel]) -> Responses:
    """The successful response of a route whose JSON may be followed by bytes."""
    return {200: {"model": model, "content": {negotiation.OCTETS: _BINARY}}}


def _query_parameters(operation: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    """The scalar fields of a body as the query parameters that accompany a binary body."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get(negotiation.JSON, {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    array_field = _array_fields.get(name)
    if array_field is None:
        return []
    note = "Only for a binary body; JSON has it as a field."
    # The schema is any string, because with a JSON body every value is accepted.
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": f"{field.get('description', field['title'] + '.')} {note}",
        }
        for name, field in schemas[name]["properties"].items()
        if name != array_field and field.get("type") in ("string", "integer", "number", "boolean")
    ]


def _error_statuses(operation: dict[str, Any]) -> dict[int, str]:
    """The error statuses of an operation and their descriptions, derived from its inputs."""
    parameters = operation.get("parameters", [])
    headers = {part["name"].lower() for part in parameters if part["in"] == "header"}
    statuses = dict(_COMMON) if parameters or "requestBody" in operation else {503: _COMMON[503]}
    if any(part["in"] == "path" for part in parameters):
        statuses[404] = _OF_BODIES[404]
    if "requestBody" in operation:
        statuses |= {**_OF_BODIES, 504: _OF_INFERENCE[504]}
    if "if-match" in headers:
        statuses |= _OF_CONDITIONS
    if "x-request-timeout" in headers:
        statuses |= _OF_INFERENCE
    if "requestBody" not in operation and "202" in operation["responses"]:
        # A report that takes longer goes on, and the response says how much is done.
        del statuses[504]
    return statuses


_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""An entry of a docstring's section `Attributes`, and its continuation lines."""
_PROBLEM_JSON: Final = ("application/problem+json", "Problem", PROBLEM)


def install(app: FastAPI, root_path: str = "") -> None:
    """Make the app serve a document with the bodies' schemas, error formats and scopes.

    Args:
        app: The app.
        root_path: Path under which a proxy publishes it.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, root_path)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, root_path: str) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        servers=[{"url": root_path}] if root_path else None,
    )
    models = [(model, "validation") for _, model in sorted(_bodies.items())]
    _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= definitions.get("$defs", {})
    schemas |= {name: schema for _, name, schema in (_PROBLEM_JSON, *ERRORS.values())}
    for schema in schemas.values():
        _describe_properties(schema)
    document["components"]["securitySchemes"] = access.SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = access.required_scopes(method.upper(), path)
            operation["security"] = [
                {scheme: [scope]} for scheme in access.SCHEMES for scope in scopes
            ]
            if parameters := _query_parameters(operation, schemas):
                operation.setdefault("parameters", []).extend(parameters)
            _describe_success(operation, schemas)
            _add_errors(path, operation, requires_key=bool(scopes))
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _describe_properties(schema: dict[str, Any]) -> None:
    """Move the attributes of a docstring to the descriptions of properties."""
    description, _, attributes = schema.get("description", "").partition("\n\nAttributes:\n")
    for match in _ATTRIBUTE.finditer(attributes):
        schema["description"] = description
        schema["properties"][match[1]].setdefault("description", " ".join(match[2].split()))


def _describe_success(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Describe a successful response by its model, where the route does not."""
    response = operation["responses"].get("200", {})
    schema = response.get("content", {}).get(negotiation.JSON, {}).get("schema", {})
    model = schemas.get(schema.get("$ref", "").rpartition("/")[2])
    if model and response["description"] == "Successful Response":
        response["description"] = model["description"]


def _add_errors(path: str, operation: dict[str, Any], *, requires_key: bool) -> None:
    media, name, _ = ERRORS.get("/" + path.split("/")[1], _PROBLEM_JSON)
    content = {media: {"schema": {"$ref": REF.format(model=name)}}}
    responses = operation.setdefault("responses", {})
    responses.pop("422", None)
    statuses = _error_statuses(operation) | (_OF_KEYS if requires_key else {})
    if media == negotiation.JSON and 422 in statuses:
        # Under /v1 every bad request is a 400, as OpenAI's clients expect.
        statuses[400] = _OF_BODIES[400]
    for status, description in statuses.items():
        responses.setdefault(str(status), {"description": description, "content": content})
