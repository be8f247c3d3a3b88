"""What travels between the API and the workers, in the one codec."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from stitchwork import errors
from stitchwork.errors import CorruptDataError, ErrorCode, JobFailedError, StitchworkError
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

REGISTRATION_STREAM: Final = "upkeep"
"""The stream of work that needs no encoder."""


class Job(Record):
    """One piece of work: inputs to embed and, where it says so, to translate and to classify.

    A job names resolved versions, so that everything it does comes from one version of each.

    Attributes:
        id: Names the job in its reply.
        reply_to: The API process that waits; None for upkeep, which nobody waits for.
        encoder: What embeds the inputs.
        truncate: Cut texts that are too long; None leaves it to the encoder's own setting.
        source: The space the embeddings are in.
        target: The space they are translated into, if they are.
        head: The head that classifies them, if one does; its labels stay with the API.
        bridge: Which way from source to target.
        draft: For upkeep, `(kind, id, version)` of the draft to work on.
        request_id: The request that it is part of, for logs.
        traceparent: The span that it is part of, where that is traced.
    """

    id: str
    reply_to: str | None = None
    encoder: EncoderSpec | None = None
    truncate: bool | None = None
    source: Space | None = None
    target: Space | None = None
    head: Head | None = None
    bridge: BridgeName = DEFAULT_BRIDGE
    registration: tuple[str, str, str] | None = None
    request_id: str | None = None
    traceparent: str | None = None

    @property
    def stream(self) -> str:
        """The stream it waits in: that of its encoder, whatever space the encoder appears in."""
        return REGISTRATION_STREAM if self.encoder is None else encoder_key(self.encoder)

    @property
    def caller(self) -> Caller:
        """Whom it is done for."""
        return Caller(self.request_id, self.traceparent)

    def pack(self, items: Sequence[Item] = ()) -> bytes:
        """The job and its inputs as bytes."""
        return pack(pack_items(items), self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answers.

    Attributes:
        job: Id of the job it answers.
        rows: (n, d) float32 embeddings, or (n, c) float32 probabilities where a head was named.
        defined: (n,) bool, False for inputs that have no direction in their space.
        covered: (n,) bool, False for inputs outside what the source's anchors cover.
        truncated: Which inputs were cut.
        tokens: How many tokens the model got; 0 where inputs are not texts.
        error: Why there are no rows.
    """

    job: str
    rows: Floats | None = None
    defined: Any = None
    covered: Any = None
    truncated: tuple[int, ...] = ()
    tokens: int = 0
    error: StitchworkError | None = field(default=None, compare=False)

    def pack(self) -> bytes:
        """The reply as bytes."""
        if self.error is not None:
            error = self.error
            known = {
                "kind": type(error).__name__,
                "message": error.message,
                "pointer": error.pointer,
                "code": error.code,
            }
            return pack({}, {"job": self.job, "error": known})
        arrays: Arrays = {"rows": np.ascontiguousarray(self.rows, np.float32)}
        arrays["defined"] = np.ascontiguousarray(self.defined, np.bool_)
        arrays["covered"] = np.ascontiguousarray(self.covered, np.bool_)
        told = {"job": self.job, "truncated": self.truncated, "tokens": self.tokens}
        return pack(arrays, told)


def registration_job(registration: Registration) -> Job:
    """The job that takes a draft one step further.

    It waits for the encoder only where one is needed; what is left to be computed then holds up
    nobody who waits for an embedding.
    """
    name = (registration.kind, registration.id, registration.version)
    embeds = (
        registration.done < registration.total
        or registration.declared.get("source") == "classifier"
    )
    return Job(
        id=":".join(name), encoder=registration.encoder if embeds else None, registration=name
    )


def unpack_job(data: bytes) -> tuple[Job, list[Item]]:
    """The job and the inputs that `Job.pack` wrote.

    Raises:
        CorruptDataError: If the bytes fail their checksum, or hold no job.
    """
    arrays, meta = unpack(data)
    try:
        job = Job.model_validate(meta)
        return job, unpack_items(arrays, job.encoder.modality if job.encoder else "vector")
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError("the bytes have a good checksum but hold no job") from error


def unpack_reply(data: bytes) -> Reply:
    """The reply that `Reply.pack` wrote.

    Raises:
        CorruptDataError: If the bytes fail their checksum, or hold no reply.
    """
    arrays, meta = unpack(data)
    try:
        told = meta.get("error")
        if told is None:
            marks = arrays["defined"], arrays["covered"]
            cut, tokens = tuple(meta["truncated"]), meta["tokens"]
            return Reply(str(meta["job"]), arrays["rows"], *marks, cut, tokens)
        kind = getattr(errors, str(told["kind"]), None)
        if not (isinstance(kind, type) and issubclass(kind, StitchworkError)):
            kind = JobFailedError
        told_of = kind(told["message"], pointer=told["pointer"], code=ErrorCode.parse(told["code"]))
        return Reply(str(meta["job"]), error=told_of)
    except (AttributeError, KeyError, TypeError) as error:
        raise CorruptDataError("the bytes have a good checksum but hold no reply") from error
