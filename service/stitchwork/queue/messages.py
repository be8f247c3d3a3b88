"""The messages between the API and the workers: jobs and replies, and their bytes.

A message is a few frames with a checksum. The first is a JSON object with the number of the format;
a job's second frame has what many jobs share, so that it is written and read once for all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, Literal

import numpy as np
import orjson

from stitchwork import errors
from stitchwork.errors import (
    CorruptDataError,
    ErrorCode,
    IncompatibleFormatError,
    JobFailedError,
    StitchworkError,
)
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.redis.commands import LARGE_WORD, Buffers
from stitchwork.redis.serialization import (
    is_frames,
    pack_frames,
    pack_large_frames,
    unpack,
    unpack_frames,
)
from stitchwork.resources import (
    EncoderSpec,
    Floats,
    Head,
    Input,
    Item,
    Record,
    Registration,
    Space,
    TokenIds,
    encoder_key,
    item_bytes,
)
from stitchwork.telemetry import Caller

FORMAT: Final = 8
"""The version of the format of messages. It changes whenever a field of a message
does, or what processes count in the queue: old and new ones would not see each other's jobs."""
FIRST_FORMAT: Final = 1
"""The format of release 0.1.0, whose messages do not name it."""
REGISTRATION_STREAM: Final = "registration"
"""The stream of registration steps that need no encoder."""
Task = Literal["embed", "tokenize", "decode"]
TOKENS: Final = b"\xff"
"""What token ids of a text follow; no text in UTF-8 has this byte."""
LARGE_BYTES: Final = 1 << 20
"""Bytes of inputs from which to pack them takes too long for the event loop."""
MAX_SHARED_PARTS: Final = 1024
_OWN_FIELDS: Final = ("id", "reply_to", "request_id", "traceparent")
"""The fields of a job that differ between jobs of equal versions."""


class Job(Record):
    """One piece of work: inputs to embed and, optionally, to translate and to classify.

    Or texts whose tokens are wanted, or token ids whose texts are.

    A job names resolved versions, so that everything it does uses one version of each.

    Attributes:
        id: Names the job in its reply.
        reply_to: The API process that waits; None for registrations, which nobody waits for.
        encoder: Embeds the inputs.
        truncate: Cut texts that are too long; None leaves it to the encoder's own setting.
        input_type: Selects a prompt of the encoder's model; None takes the encoder's own.
        source: The space of the embeddings.
        target: The space they are translated into, if any.
        head: The head that classifies them, if any; its labels stay with the API.
        bridge: The bridge from source to target.
        task: What is done with the inputs.
        special_tokens: Whether special tokens are added to tokens, or are a part of texts.
        registration: `(kind, id, version)` of the registration that this is a step of.
        request_id: The request that it is part of, for logs.
        traceparent: The span that it is part of, if it is traced.
    """

    id: str
    reply_to: str | None = None
    encoder: EncoderSpec | None = None
    truncate: bool | None = None
    input_type: str | None = None
    source: Space | None = None
    target: Space | None = None
    head: Head | None = None
    bridge: BridgeName = DEFAULT_BRIDGE
    task: Task = "embed"
    special_tokens: bool = True
    registration: tuple[str, str, str] | None = None
    request_id: str | None = None
    traceparent: str | None = None

    @cached_property
    def stream(self) -> str:
        """The stream it waits in: that of its encoder, whatever spaces the encoder appears in."""
        return REGISTRATION_STREAM if self.encoder is None else encoder_key(self.encoder)

    @cached_property
    def caller(self) -> Caller:
        """The request that it is part of."""
        return Caller(self.request_id, self.traceparent)

    @cached_property
    def shared_part(self) -> bytes:
        """The fields that it shares with other jobs, as JSON."""
        return orjson.dumps(self.model_dump(mode="json", exclude=set(_OWN_FIELDS)))

    def pack(self, items: Sequence[Input] = ()) -> bytes:
        """The job and its inputs as bytes."""
        own = self.id, self.reply_to, self.request_id, self.traceparent
        return bytes(pack_job(self, items, *own))


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's reply to a job.

    Attributes:
        job: Id of the job.
        rows: (n, d) float32 embeddings, or (n, c) float32 scores if the job names a head.
        defined: (n,) bool, False for inputs that have no direction in their space.
        covered: (n,) bool, False for inputs outside of what the source's anchors cover.
        lengths: (n,) float32, norms of the embeddings of the source.
        truncated: Indices of the inputs that were cut.
        tokens: How many tokens the model got; 0 if inputs are not texts.
        prompt_name: Name of the prompt that the job's input type selected.
        content: JSON, a list with an entry for each input, of a task that gives no rows.
        error: Why there is neither.
    """

    job: str
    rows: Floats | None = None
    defined: Any = None
    covered: Any = None
    lengths: Any = None
    truncated: tuple[int, ...] = ()
    tokens: int = 0
    prompt_name: str | None = None
    content: bytes | None = None
    error: StitchworkError | None = field(default=None, compare=False)

    def pack(self) -> bytes:
        """The reply as bytes."""
        header: dict[str, Any] = {"format": FORMAT, "job": self.job}
        if self.error is not None:
            error = self.error
            header["error"] = {
                "kind": type(error).__name__,
                "message": error.message,
                "pointer": error.pointer,
                "code": error.code,
            }
            return pack_frames((orjson.dumps(header),))
        if self.content is not None:
            return pack_frames((orjson.dumps(header), self.content))
        rows = np.ascontiguousarray(self.rows, np.float32)
        header["shape"] = rows.shape
        header["tokens"] = self.tokens
        if self.truncated:
            header["truncated"] = self.truncated
        if self.prompt_name is not None:
            header["prompt_name"] = self.prompt_name
        arrays = (
            rows,
            np.ascontiguousarray(self.defined, np.bool_),
            np.ascontiguousarray(self.covered, np.bool_),
            np.ascontiguousarray(self.lengths, np.float32),
        )
        return pack_frames((orjson.dumps(header), *(array.tobytes() for array in arrays)))


def registration_job(registration: Registration) -> Job:
    """The job that is the next step of a registration.

    It goes to the encoder's stream only if the step needs the encoder, so that other steps do not
    delay embeddings.
    """
    name = (registration.kind, registration.id, registration.version)
    is_classifier = registration.declared.get("source") == "classifier"
    embeds = registration.done < registration.total or is_classifier
    encoder = registration.encoder if embeds else None
    return Job(id=":".join(name), encoder=encoder, registration=name)


def pack_job(
    job: Job,
    items: Sequence[Input],
    id_: str,
    reply_to: str | None = None,
    request_id: str | None = None,
    traceparent: str | None = None,
) -> bytes | Buffers:
    """A job and its inputs as bytes, with other values of the fields that jobs do not share.

    Args:
        job: The job.
        items: Its inputs.
        id_: Its id.
        reply_to: The API process that waits.
        request_id: The request that it is part of.
        traceparent: The span that it is part of.
    """
    header = {"format": FORMAT, "id": id_, "reply_to": reply_to, "request_id": request_id}
    if traceparent is not None:
        header["traceparent"] = traceparent
    frames = (orjson.dumps(header), job.shared_part, *map(_pack_item, items))
    if sum(map(len, frames)) >= LARGE_WORD:
        return pack_large_frames(frames)
    return pack_frames(frames)


def unpack_job(data: bytes) -> tuple[Job, list[Item]]:
    """The job and the inputs of `Job.pack`.

    Raises:
        CorruptDataError: If the bytes fail their checksum, or are not a job.
        IncompatibleFormatError: If another release wrote them.
    """
    header, frames = _open(data)
    try:
        number = _format_of(header)
        if number != FORMAT:
            raise IncompatibleFormatError(_mismatch("job", number))
        shared = _parse_shared_part(bytes(frames[0]))
        own = {name: header.get(name) for name in _OWN_FIELDS}
        if not (isinstance(own["id"], str) and _are_texts(own.values())):
            raise ValueError("expected texts")
        job = shared.model_copy(update=own)
        if job.encoder is not None and job.encoder.modality == "text":
            return job, [_unpack_text(part) for part in frames[1:]]
        return job, [bytes(part) for part in frames[1:]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CorruptDataError("the bytes have a valid checksum but are not a job") from error


def _pack_item(item: Input) -> bytes | memoryview:
    return TOKENS + item if isinstance(item, TokenIds) else item_bytes(item)


def _unpack_text(part: memoryview) -> Item:
    return TokenIds(part[1:]) if bytes(part[:1]) == TOKENS else str(part, "utf-8")


def unpack_address(data: bytes) -> tuple[str, str] | None:
    """The id of a job in any format, and the API process to reply to; None if there is none.

    Raises:
        CorruptDataError: If the bytes fail their checksum.
    """
    header, _ = _open(data)
    if not isinstance(header, dict):
        return None
    job, api = header.get("id"), header.get("reply_to")
    return (job, api) if isinstance(job, str) and isinstance(api, str) else None


def unpack_reply(data: bytes) -> Reply:
    """The reply of `Reply.pack`; for one that another release wrote, an error in its place.

    Raises:
        CorruptDataError: If the bytes fail their checksum, or are not a reply.
    """
    header, frames = _open(data)
    try:
        job, number = str(header["job"]), _format_of(header)
        if number != FORMAT:
            message, code = _mismatch("reply", number), ErrorCode.INCOMPATIBLE_FORMAT
            return Reply(job, error=JobFailedError(message, code=code))
        if header.get("error") is not None:
            return Reply(job, error=_unpack_error(header["error"]))
        if "shape" not in header:
            (content,) = frames
            return Reply(job, content=bytes(content))
        rows, defined, covered, lengths = frames
        count, width = header["shape"]
        return Reply(
            job,
            np.frombuffer(rows, np.float32).reshape(count, width),
            np.frombuffer(defined, np.bool_).reshape(count),
            np.frombuffer(covered, np.bool_).reshape(count),
            np.frombuffer(lengths, np.float32).reshape(count),
            tuple(header.get("truncated", ())),
            header["tokens"],
            header.get("prompt_name"),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptDataError("the bytes have a valid checksum but are not a reply") from error


def _open(data: bytes) -> tuple[Any, list[memoryview]]:
    """The header of a message of any format, and its other frames; those of format 2 have none.

    Raises:
        CorruptDataError: If the bytes fail their checksum, or have no header.
    """
    if not is_frames(data):
        return unpack(data)[1], []
    header, *frames = unpack_frames(data) or [memoryview(b"")]
    try:
        return orjson.loads(header), frames
    except orjson.JSONDecodeError as error:
        raise CorruptDataError("the header of a message is not JSON") from error


@lru_cache(MAX_SHARED_PARTS)
def _parse_shared_part(part: bytes) -> Job:
    return Job.model_validate({"id": "", **orjson.loads(part)})


def _are_texts(values: Iterable[Any]) -> bool:
    return all(value is None or isinstance(value, str) for value in values)


def _unpack_error(meta: dict[str, Any]) -> StitchworkError:
    kind = getattr(errors, str(meta["kind"]), None)
    if not (isinstance(kind, type) and issubclass(kind, StitchworkError)):
        kind = JobFailedError
    code = ErrorCode.parse(meta["code"])
    return kind(meta["message"], pointer=meta["pointer"], code=code)


def _format_of(header: dict[str, Any]) -> int:
    return int(header.get("format", FIRST_FORMAT))


def _mismatch(kind: str, number: int) -> str:
    return (
        f"the {kind} has message format {number} of another release of Stitchwork, this process "
        f"reads format {FORMAT}: run the same release of the API and of the workers"
    )
