"""The messages between the API and the workers: jobs and replies, and their bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from stitchwork import errors
from stitchwork.errors import (
    CorruptDataError,
    ErrorCode,
    IncompatibleFormatError,
    JobFailedError,
    StitchworkError,
)
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.redis.serialization import pack, unpack
from stitchwork.resources import (
    Arrays,
    EncoderSpec,
    Floats,
    Head,
    Item,
    Record,
    Registration,
    Space,
    encoder_key,
    pack_items,
    unpack_items,
)
from stitchwork.telemetry import Caller

FORMAT: Final = 3
"""The version of the format of messages. It changes whenever a field of a message does."""
FIRST_FORMAT: Final = 1
"""The format of release 0.1.0, whose messages do not name it."""
REGISTRATION_STREAM: Final = "registration"
"""The stream of registration steps that need no encoder."""


class Job(Record):
    """One piece of work: inputs to embed and, optionally, to translate and to classify.

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
    registration: tuple[str, str, str] | None = None
    request_id: str | None = None
    traceparent: str | None = None

    @property
    def stream(self) -> str:
        """The stream it waits in: that of its encoder, whatever spaces the encoder appears in."""
        return REGISTRATION_STREAM if self.encoder is None else encoder_key(self.encoder)

    @property
    def caller(self) -> Caller:
        """The request that it is part of."""
        return Caller(self.request_id, self.traceparent)

    def pack(self, items: Sequence[Item] = ()) -> bytes:
        """The job and its inputs as bytes."""
        return pack(pack_items(items), {"format": FORMAT, **self.model_dump(mode="json")})


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's reply to a job.

    Attributes:
        job: Id of the job.
        rows: (n, d) float32 embeddings, or (n, c) float32 probabilities if the job names a head.
        defined: (n,) bool, False for inputs that have no direction in their space.
        covered: (n,) bool, False for inputs outside of what the source's anchors cover.
        lengths: (n,) float32, norms of the embeddings of the source.
        truncated: Indices of the inputs that were cut.
        tokens: How many tokens the model got; 0 if inputs are not texts.
        prompt_name: Name of the prompt that the job's input type selected.
        error: Why there are no rows.
    """

    job: str
    rows: Floats | None = None
    defined: Any = None
    covered: Any = None
    lengths: Any = None
    truncated: tuple[int, ...] = ()
    tokens: int = 0
    prompt_name: str | None = None
    error: StitchworkError | None = field(default=None, compare=False)

    def pack(self) -> bytes:
        """The reply as bytes."""
        meta: dict[str, Any] = {"format": FORMAT, "job": self.job}
        if self.error is not None:
            error = self.error
            meta["error"] = {
                "kind": type(error).__name__,
                "message": error.message,
                "pointer": error.pointer,
                "code": error.code,
            }
            return pack({}, meta)
        arrays: Arrays = {
            "rows": np.ascontiguousarray(self.rows, np.float32),
            "defined": np.ascontiguousarray(self.defined, np.bool_),
            "covered": np.ascontiguousarray(self.covered, np.bool_),
            "lengths": np.ascontiguousarray(self.lengths, np.float32),
        }
        meta |= {"truncated": self.truncated, "tokens": self.tokens}
        return pack(arrays, {**meta, "prompt_name": self.prompt_name})


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


def unpack_job(data: bytes) -> tuple[Job, list[Item]]:
    """The job and the inputs of `Job.pack`.

    Raises:
        CorruptDataError: If the bytes fail their checksum, or are not a job.
        IncompatibleFormatError: If another release wrote them.
    """
    arrays, meta = unpack(data)
    try:
        number = _format_of(meta)
        if number != FORMAT:
            raise IncompatibleFormatError(_mismatch("job", number))
        job = Job.model_validate({name: meta[name] for name in meta if name != "format"})
        return job, unpack_items(arrays, job.encoder.modality if job.encoder else "vector")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError("the bytes have a valid checksum but are not a job") from error


def unpack_address(data: bytes) -> tuple[str, str] | None:
    """The id of a job in any format, and the API process to reply to; None if there is none.

    Raises:
        CorruptDataError: If the bytes fail their checksum.
    """
    _, meta = unpack(data)
    if not isinstance(meta, dict):
        return None
    job, api = meta.get("id"), meta.get("reply_to")
    return (job, api) if isinstance(job, str) and isinstance(api, str) else None


def unpack_reply(data: bytes) -> Reply:
    """The reply of `Reply.pack`; for one that another release wrote, an error in its place.

    Raises:
        CorruptDataError: If the bytes fail their checksum, or are not a reply.
    """
    arrays, meta = unpack(data)
    try:
        job, number = str(meta["job"]), _format_of(meta)
        if number != FORMAT:
            message, code = _mismatch("reply", number), ErrorCode.INCOMPATIBLE_FORMAT
            return Reply(job, error=JobFailedError(message, code=code))
        if meta.get("error") is not None:
            return Reply(job, error=_unpack_error(meta["error"]))
        return Reply(
            job,
            arrays["rows"],
            arrays["defined"],
            arrays["covered"],
            arrays["lengths"],
            tuple(meta["truncated"]),
            meta["tokens"],
            meta["prompt_name"],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptDataError("the bytes have a valid checksum but are not a reply") from error


def _unpack_error(meta: dict[str, Any]) -> StitchworkError:
    kind = getattr(errors, str(meta["kind"]), None)
    if not (isinstance(kind, type) and issubclass(kind, StitchworkError)):
        kind = JobFailedError
    code = ErrorCode.parse(meta["code"])
    return kind(meta["message"], pointer=meta["pointer"], code=code)


def _format_of(meta: dict[str, Any]) -> int:
    return int(meta.get("format", FIRST_FORMAT))


def _mismatch(kind: str, number: int) -> str:
    return (
        f"the {kind} has message format {number} of another release of Stitchwork, this process "
        f"reads format {FORMAT}: run the same release of the API and of the workers"
    )
