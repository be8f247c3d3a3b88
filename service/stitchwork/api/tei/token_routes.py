"""Tokens of texts, and texts of tokens, as Text Embeddings Inference has them."""

from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from stitchwork.api.content import negotiation
from stitchwork.api.dependencies import app_state, request_timeout
from stitchwork.api.direct_routes import DirectRoute, reserve
from stitchwork.api.early_checks import check_encoder
from stitchwork.api.model_names import ModelNamePath
from stitchwork.api.openapi import body, with_timeout
from stitchwork.api.problem_details import replace_pointer
from stitchwork.api.provenance import resolution_headers
from stitchwork.api.raw_inputs import charge, resolve_now
from stitchwork.api.request_lifetime import run_while_connected
from stitchwork.api.schemas.items import decode_items
from stitchwork.api.schemas.protocol_model import ProtocolModel, record_ignored
from stitchwork.api.tei.path_spaces import path_spaces
from stitchwork.api.tei.schemas import DecodedTexts, DecodeRequest, TokenizeRequest, TokenLists
from stitchwork.errors import InputTooLargeError, InvalidInputError
from stitchwork.inference.model_paths import hide_model_path
from stitchwork.inference.resolve import encoder_of
from stitchwork.queue.messages import Task
from stitchwork.resources import Input, LongText

MAX_BYTES: Final = 1 << 20
"""Bytes of the texts or ids of a request; those of its response may be sixty times as many."""
BYTES_PER_TOKEN: Final = 64

M = TypeVar("M", bound=ProtocolModel)

router = APIRouter(prefix="/tei", tags=["Text Embeddings Inference"])


async def tokenize(model: ModelNamePath, request: Request) -> Response:
    """The tokens of texts, by the tokenizer of the model's encoder; also more than it takes."""
    payload = await _read(request, model, TokenizeRequest)
    with replace_pointer("/items", "/inputs"), replace_pointer("/input_type", "/prompt_name"):
        return await _run(
            request,
            model,
            payload,
            payload.inputs,
            task="tokenize",
            special_tokens=payload.add_special_tokens,
            input_type=payload.prompt_name,
        )


async def decode(model: ModelNamePath, request: Request) -> Response:
    """The texts of token ids, by the tokenizer of the model's encoder."""
    payload = await _read(request, model, DecodeRequest)
    with replace_pointer("/items", "/ids"):
        return await _run(
            request,
            model,
            payload,
            payload.ids,
            task="decode",
            special_tokens=not payload.skip_special_tokens,
        )


async def _read(request: Request, model: str, kind: type[M]) -> M:
    """The body of a request, which is refused before if no worker would get it."""
    state = app_state(request)
    await check_encoder(request, state, *path_spaces(state, model))
    return await negotiation.read_body(request, kind, state.body_parser)


async def _run(
    request: Request,
    model: str,
    payload: ProtocolModel,
    inputs: list[Input],
    *,
    task: Task,
    special_tokens: bool,
    input_type: str | None = None,
) -> Response:
    """The response to a request about tokens, on a worker of the model's encoder."""
    state, seconds = app_state(request), request_timeout(request)
    source, target = path_spaces(state, model)
    resolution = await resolve_now(state, source=source, target=target)
    record_ignored(state.telemetry.metrics, payload)
    encoder = encoder_of(resolution.source)
    if encoder.modality != "text":
        raise InvalidInputError(
            f"expected a model of texts, space {source} embeds {encoder.modality}s"
        )
    size = sum(i.characters if isinstance(i, LongText) else len(i) for i in inputs)
    if size > MAX_BYTES:
        raise InputTooLargeError(
            f"expected {MAX_BYTES} characters of texts or bytes of ids at most, got {size}: send "
            "fewer"
        )
    items = decode_items(inputs, "text", state.limits.max_items)
    await charge(state, items)
    reserve(request, size * BYTES_PER_TOKEN)
    work = state.pipeline.run_tokenizer(
        resolution,
        items,
        task=task,
        special_tokens=special_tokens,
        input_type=input_type,
        seconds=seconds,
    )
    with hide_model_path(resolution.source):
        content = await run_while_connected(request, work)
    headers = resolution_headers(resolution)
    return Response(content, headers=headers, media_type="application/json")


ROUTES: Final[tuple[tuple[str, Any, str, type[ProtocolModel], Any], ...]] = (
    ("tokenize", tokenize, "Tokenise texts", TokenizeRequest, TokenLists),
    ("decode", decode, "Decode token ids", DecodeRequest, DecodedTexts),
)
for name, endpoint, summary, request_model, response_model in ROUTES:
    router.add_api_route(
        f"/{{model:path}}/{name}",
        endpoint,
        methods=["POST"],
        summary=summary,
        name=f"tei_{name}",
        response_model=response_model,
        openapi_extra=with_timeout(body(request_model)),
        route_class_override=DirectRoute,
    )
