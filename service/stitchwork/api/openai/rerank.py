"""Rerank documents, as clients of Cohere, Jina and vLLM ask for it.

The relevance of a document is the cosine of its embedding and the query's, as vLLM has it for
models of embeddings; no model reads the two together.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field, ValidationInfo
from starlette.responses import Response

from stitchwork.api.content import negotiation, validation
from stitchwork.api.dependencies import app_state, request_timeout
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.early_checks import check_capacity, check_workers
from stitchwork.api.model_names import DEFAULT_MODEL, ModelNameField, model_spaces
from stitchwork.api.openai.schemas import Usage, parse_part
from stitchwork.api.openapi import body, with_timeout
from stitchwork.api.problem_details import replace_pointer
from stitchwork.api.provenance import result_headers
from stitchwork.api.raw_inputs import infer_while_connected, resolve_now
from stitchwork.api.schemas.fields import FieldParser
from stitchwork.api.schemas.items import EncodedImage, compact_text, plain_items
from stitchwork.api.schemas.protocol_model import ProtocolModel, record_ignored
from stitchwork.api.schemas.response_model import ResponseModel
from stitchwork.errors import InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.inference.resolve import encoder_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import EncoderSpec, Floats, Input, LongText
from stitchwork.resources.prompts import find_prompt

router = APIRouter(tags=["Rerank"])

_LIMIT: Final = "documents that are too long are refused, or cut with `truncate`"
REFUSED_FIELDS: Final = {
    "rank_fields": "send the text of each document",
    "max_tokens_per_doc": _LIMIT,
    "max_chunks_per_doc": _LIMIT,
    "max_query_tokens": _LIMIT,
    "instruction": "the model's prompts for queries and documents are used",
}
DOCUMENT_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    ]
}
QUERY_SCHEMA: Final[dict[str, Any]] = {
    "type": "string",
    "description": "A text or, for an image encoder, an image in base64, as a data URI or, from "
    "allowed hosts, by URL; a document too.",
}


def _parse_query(value: Any, info: ValidationInfo) -> str | LongText:
    if not isinstance(value, str | dict):
        raise InvalidInputError(f"expected a text, got {validation.json_type(value)}")
    return compact_text(_parse_document(value, ""))


def _parse_documents(value: Any, info: ValidationInfo) -> list[str | LongText]:
    if not isinstance(value, list) or not value:
        got = "an empty list" if value == [] else validation.json_type(value)
        raise InvalidInputError(f"expected a non-empty list of documents, got {got}")
    return [compact_text(_parse_document(document, f"/{i}")) for i, document in enumerate(value)]


def _parse_document(document: Any, pointer: str) -> str:
    match document:
        case {"text": str(text), "image": str(image)} if text and image:
            raise InvalidInputError(
                "expected a text or an image, got an object with both", pointer=pointer
            )
        case {"image": str(image)} if image and "type" not in document:
            return EncodedImage(image)
        case {"text": str(text)} if "type" not in document:
            return text
    return parse_part(document, pointer)


class RerankRequest(ProtocolModel):
    """A request of Cohere's and Jina's rerank API."""

    refused_fields = REFUSED_FIELDS
    model: ModelNameField = DEFAULT_MODEL
    query: Annotated[str | LongText, FieldParser(_parse_query, QUERY_SCHEMA)]
    documents: Annotated[
        list[str | LongText],
        FieldParser(_parse_documents, {"type": "array", "minItems": 1, "items": DOCUMENT_SCHEMA}),
    ]
    top_n: int | None = Field(
        None, ge=1, strict=True, description="Number of results; unset: all documents."
    )
    return_documents: bool = Field(
        False, strict=True, description="Whether each result has its document."
    )
    bridge: BridgeName = Field(
        DEFAULT_BRIDGE, description="Bridge to the target; not in other APIs."
    )
    truncate: bool | None = Field(
        None, strict=True, description="Cut texts that are too long; not in other APIs."
    )
    example: ClassVar[dict[str, Any]] = {
        "model": "minilm",
        "query": "how do I reset my card?",
        "documents": ["Resetting a card", "Opening hours"],
        "top_n": 1,
    }


class RerankDocument(ResponseModel):
    """A document of a request."""

    text: str


class RerankResult(ResponseModel):
    """The relevance of one document."""

    index: int = Field(description="Index of the document in the request.")
    relevance_score: float = Field(
        description="Cosine of the embeddings of the document and of the query, from -1 to 1; 0 if "
        "the document has no direction in the space."
    )
    document: RerankDocument | None = None


class RerankResponse(ResponseModel):
    """Documents, the most relevant ones first."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "5f0c",
                "object": "list",
                "model": "minilm",
                "results": [{"index": 0, "relevance_score": 0.71}],
                "usage": {"prompt_tokens": 21, "total_tokens": 21},
            }
        }
    )
    id: str = Field(description="The request's id.")
    object: str
    model: str
    results: list[RerankResult]
    usage: Usage


async def rerank(request: Request) -> Response:
    """Order documents by the cosine of their embeddings and the query's.

    The embeddings are those of `/v1/embeddings`, with the model's prompts for queries and for
    documents if it has both.
    """
    state, deadline = app_state(request), time.monotonic() + request_timeout(request)
    await check_workers(request, state)
    payload = await negotiation.read_body(request, RerankRequest, state.body_parser)
    source, target = model_spaces(state, payload.model)
    check_capacity(state, source)
    resolution = await resolve_now(state, source=source, target=target, bridge=payload.bridge)
    record_ignored(state.telemetry.metrics, payload)
    encoder = encoder_of(resolution.source)
    # The query alone is charged before the documents are known to be too many.
    state.rate_limiter.check_size(items=1 + len(payload.documents))

    async def embed(texts: Sequence[Input], input_type: str | None, field: str) -> InferenceResult:
        with replace_pointer("/items", field):
            return await infer_while_connected(
                request,
                state,
                resolution,
                plain_items(texts, encoder.modality),
                truncate=payload.truncate,
                input_type=input_type,
                seconds=max(0.0, deadline - time.monotonic()),
            )

    query_type, document_type = input_types(encoder)
    with replace_pointer("/query/0", "/query"):
        query = await embed([payload.query], query_type, "/query")
    check_query(query)
    documents = await embed(payload.documents, document_type, "/documents")
    request_id = request.scope["state"]["request_id"]
    respond = partial(_response, payload, request_id, query, documents)
    return await state.executor.finish(respond, documents.rows.size)


# The second is that of Cohere's present API; errors there are as on the other paths below /v2.
for path, name in (("/v1/rerank", "rerank"), ("/v2/rerank", "v2_rerank")):
    router.add_api_route(
        path,
        rerank,
        methods=["POST"],
        summary="Order documents by their similarity to a query",
        name=name,
        response_model=RerankResponse,
        openapi_extra=with_timeout(body(RerankRequest)),
        route_class_override=DirectRoute,
    )


def input_types(encoder: EncoderSpec) -> tuple[str | None, str | None]:
    """The input types of queries and of documents; None for both if the model lacks a prompt."""
    prompts = getattr(encoder, "prompts", None) or {}
    names = ("query", "document")
    if all(find_prompt(prompts, name) is not None for name in names):
        return names
    return None, None


def check_query(query: InferenceResult) -> None:
    """Refuse a query at the mean of its space, to which nothing is more or less similar.

    Raises:
        InvalidInputError: If its embedding has no direction.
    """
    if query.undefined:
        raise InvalidInputError(
            f"expected a query with a direction in space {query.resolution.destination.id}, got "
            "one at its mean",
            pointer="/query",
        )


def cosines(query: Floats, rows: Floats) -> Floats:
    """The cosine of each row and a query; 0 for rows without a length.

    Args:
        query: (d,) embedding, not zero.
        rows: (n, d) embeddings.

    Returns:
        (n,) float64.
    """
    x, y = rows.astype(np.float64), query.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y)
    return np.clip(x @ y / np.where(norms > 0, norms, 1), -1, 1)


def _response(
    payload: RerankRequest, request_id: str, query: InferenceResult, documents: InferenceResult
) -> Response:
    scores = np.where(documents.defined, cosines(query.rows[0], documents.rows), 0)
    order = np.argsort(-scores, kind="stable")[: payload.top_n]
    results = []
    for i in order.tolist():
        text = {"document": RerankDocument(text=str(payload.documents[i]))}
        results.append(
            RerankResult(
                index=i,
                relevance_score=float(scores[i]),
                **(text if payload.return_documents else {}),
            )
        )
    tokens = query.tokens + documents.tokens
    response = RerankResponse(
        id=request_id,
        object="list",
        model=payload.model,
        results=results,
        usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
    )
    return negotiation.json_response(response, headers=_headers(query, documents))


def _headers(query: InferenceResult, documents: InferenceResult) -> dict[str, str]:
    """The headers of all inputs together."""
    joined = replace(
        documents,
        defined=np.concatenate([query.defined, documents.defined]),
        covered=np.concatenate([query.covered, documents.covered]),
        truncated=(*query.truncated, *documents.truncated),
    )
    return result_headers(joined)
