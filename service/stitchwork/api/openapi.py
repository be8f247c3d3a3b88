"""Keeps the OpenAPI schema true for routes that read their own bodies."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import TIMEOUT_PARAMETER
from stitchwork.api.middleware import auth
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
                "param": {"type": ["string", "null"], "description": "The field to blame."},
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
ERRORS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "/v1": (negotiation.JSON, "OpenAIError", OPENAI_ERROR),
    "/v2": (negotiation.JSON, "InferenceError", INFERENCE_ERROR),
}
"""Media type, name and schema of errors by the first part of a path, where not problem+json."""

_BLOB: Final = {"schema": {"type": "string", "format": "binary"}}
Answers = dict[int | str, dict[str, Any]]

_COMMON: Final = {422: "A value means nothing here", 503: "A part of the service is away"}
_OF_BODIES: Final = {
    400: "The bytes cannot be parsed",
    404: "Something that is named is not registered",
    408: "The body came too slowly",
    409: "It contradicts what is registered",
    413: "More than is taken in one request",
    415: "A format that is not spoken here",
}
_OF_KEYS: Final = {
    401: "No key, or one that is unknown, removed or expired",
    403: "A key that does not open this",
    429: "Too often or too much at once; Retry-After says when to try again",
}
_OF_CONDITIONS: Final = {409: _OF_BODIES[409], 412: "Another version stands"}
_OF_WORK: Final = {
    404: _OF_BODIES[404],
    409: _OF_BODIES[409],
    504: "The answer did not come in time",
}


def rows(model: type[BaseModel]) -> Answers:
    """What a route answers that gives rows in the format that `Accept` chooses."""
    told = "Rows under `embeddings`, and what was used; `Accept` chooses the format."
    return {
        200: {
            "description": told,
            "model": model,
            "content": dict.fromkeys(negotiation.BINARY, _BLOB),
        }
    }


def put(model: type[BaseModel], *, pending: type[BaseModel] | None = None) -> Answers:
    """What a PUT or POST of a resource answers."""
    found: Answers = {
        200: {"description": "The same content stood already, or it was replaced", "model": model},
        201: {"description": "It is registered and serves", "model": model},
    }
    if pending:
        told = "A worker prepares it; the record shows how far it is"
        found[202] = {"description": told, "model": model | pending}
    return found


_bodies: dict[str, type[RequestModel]] = {}


def body(
    model: type[RequestModel], *, binary: str | None = None, octets: bool = False
) -> dict[str, Any]:
    """What a route says of its body.

    Args:
        model: The schema of its JSON.
        binary: The array of a safetensors or .npy body, whose other fields travel in the query;
            None where the route takes only raw inputs.
        octets: Whether bytes may stand behind the JSON.
    """
    _bodies[model.__name__] = model
    content: dict[str, Any] = {
        negotiation.JSON: {"schema": {"$ref": REF.format(model=model.__name__)}}
    }
    if model.example:
        content[negotiation.JSON]["example"] = model.example
    if binary:
        told = (
            f"`{binary}` as an array; the other fields in the query or, in safetensors, as JSON in "
            "its metadata."
        )
        blob = {"schema": {"type": "string", "format": "binary", "description": told}}
        content |= dict.fromkeys(negotiation.BINARY, blob)
    if octets:
        content[negotiation.OCTETS] = _BLOB
    if "items" in model.model_fields:
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        content[negotiation.NDJSON] = {"schema": {"type": "string"}}
        content[negotiation.MULTIPART] = {
            "schema": {"type": "object", "properties": {"items": files}, "required": ["items"]}
        }
    told_in_query = _query_of(model, binary) if binary else []
    return {"requestBody": {"required": True, "content": content}, "parameters": told_in_query}


def with_timeout(told: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same of a route that reads `X-Request-Timeout`, which is `depends.seconds_of`."""
    said = told or {}
    return {**said, "parameters": [TIMEOUT_PARAMETER, *said.get("parameters", ())]}


def example(told: str, value: Any, *, octets: bool = False) -> dict[int | str, dict[str, Any]]:
    """What a route says of its answer: a sentence and an example.

    Args:
        told: The sentence.
        value: The example, as JSON.
        octets: Whether bytes may stand behind the JSON.
    """
    content: dict[str, Any] = {negotiation.JSON: {"example": value}}
    return {
        200: {
            "description": told,
            "content": content | ({negotiation.OCTETS: _BLOB} if octets else {}),
        }
    }


def _query_of(model: type[RequestModel], binary: str) -> list[dict[str, Any]]:
    """The plain fields of a body, as the query parameters that they are beside a binary one."""
    schema = model.model_json_schema(ref_template=REF)
    told = "{}, beside a binary body; a JSON body says it itself, and this has no effect."
    # Whatever a text says there beside a JSON body, it does no harm: so the schema is any text.
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": told.format(field["type"].capitalize()),
        }
        for name, field in schema["properties"].items()
        if name != binary and field.get("type") in ("string", "integer", "number", "boolean")
    ]


def _problems(operation: dict[str, Any]) -> dict[int, str]:
    """What can go wrong with an operation, by what it takes."""
    parameters = operation.get("parameters", [])
    headers = {part["name"].lower() for part in parameters if part["in"] == "header"}
    found = dict(_COMMON) if parameters or "requestBody" in operation else {503: _COMMON[503]}
    if any(part["in"] == "path" for part in parameters):
        found[404] = _OF_BODIES[404]
    if "requestBody" in operation:
        found |= {**_OF_BODIES, 504: _OF_WORK[504]}
    if "if-match" in headers:
        found |= _OF_CONDITIONS
    if "x-request-timeout" in headers:
        found |= _OF_WORK
    return found


def install(app: FastAPI) -> None:
    """Add the bodies' schemas and the shape of problems to what the app says of itself."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
            models = [(model, "validation") for _, model in sorted(_bodies.items())]
            _, found = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]
            schemas = told.setdefault("components", {}).setdefault("schemas", {})
            schemas |= found.get("$defs", {})
            usual = ("application/problem+json", "Problem", PROBLEM)
            schemas |= {name: shape for _, name, shape in (usual, *ERRORS.values())}
            told["components"]["securitySchemes"] = {"key": auth.SCHEME}
            for path, operations in told["paths"].items():
                media, name, _ = ERRORS.get("/" + path.split("/")[1], usual)
                problem = {media: {"schema": {"$ref": REF.format(model=name)}}}
                for method, operation in operations.items():
                    scopes = auth.required_scopes(method.upper(), path)
                    operation["security"] = [{"key": [scope]} for scope in scopes]
                    answers = operation.setdefault("responses", {})
                    answers.pop("422", None)
                    possible = _problems(operation) | (_OF_KEYS if scopes else {})
                    if media == negotiation.JSON and 422 in possible:
                        # OpenAI's clients are told 400 of whatever is wrong with a request.
                        possible[400] = _OF_BODIES[400]
                    for status, description in possible.items():
                        told_of_it = {"description": description, "content": problem}
                        answers.setdefault(str(status), told_of_it)
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = told
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]
