"""Requests whose jobs are to be admitted, or are in the queue."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from stitchwork.errors import DeadlineExceededError, InvalidInputError, StitchworkError
from stitchwork.queue.admission import Parts
from stitchwork.queue.messages import Reply
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.resources import Input

ITEMS_POINTER: Final = "/items/"


class PartError(Exception):
    """The error of one job of a request.

    Attributes:
        index: Index of the job.
        error: What its worker answered.
    """

    def __init__(self, index: int, error: StitchworkError) -> None:
        super().__init__(error.message)
        self.index = index
        self.error = error


class PendingRequest:
    """A request whose jobs are to be admitted, or are in the queue.

    Attributes:
        parts: Its jobs, their deadline, and the caller.
        encoder: Key of the encoder that embeds their inputs.
        requirement: What its jobs require of a worker.
        future: Gets the replies in the order of the jobs.
        stream: The stream that its jobs are in, once they are admitted.
        entries: Ids of the entries of its jobs, once they are admitted.
        replies: The replies that have come.
        missing: Number of jobs without a reply.
        deadline: When its callers stop waiting, by the event loop's clock.
        transfer: The call that takes its jobs to the server, if they are large.
    """

    __slots__ = (
        "deadline",
        "encoder",
        "entries",
        "future",
        "missing",
        "parts",
        "replies",
        "requirement",
        "stream",
        "transfer",
    )

    def __init__(self, parts: Parts, encoder: str, requirement: ModelRequirement) -> None:
        self.parts = parts
        self.encoder = encoder
        self.stream = ""
        self.requirement = requirement
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Reply]] = loop.create_future()
        self.deadline = loop.time() + parts.timeout_ms / 1000
        self.transfer: asyncio.Future[list[Any]] | None = None
        self.entries: list[str] = []
        self.replies: list[Reply | None] = [None] * len(parts.parts)
        self.missing = len(parts.parts)

    def fail(self, error: StitchworkError) -> None:
        """End the wait for its replies with an error."""
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self, seconds: float) -> None:
        """End the wait for its replies, which lasted so many seconds."""
        self.fail(
            DeadlineExceededError(
                f"no worker answered within {seconds:g} seconds (request_timeout_seconds, or less "
                "if the request says so)"
            )
        )

    def receive(self, index: int, reply: Reply) -> None:
        """Take the reply to one of its jobs."""
        if self.replies[index] is None:
            self.replies[index] = reply
            self.missing -= 1
        if self.future.done():
            return
        if reply.error is not None:
            self.future.set_exception(PartError(index, reply.error))
        elif not self.missing:
            self.future.set_result([part for part in self.replies if part is not None])

    def unanswered(self) -> list[tuple[str, str]]:
        """Entries and payloads of the jobs without a reply."""
        rows = zip(self.entries, self.parts.parts, self.replies, strict=False)
        return [(entry, part.payload) for entry, part, reply in rows if reply is None]


def shift_pointer(failure: PartError, parts: Sequence[Sequence[Input]]) -> StitchworkError:
    """The error of a job, with the index in its pointer counted in the whole request."""
    error = failure.error
    if isinstance(error, InvalidInputError) and (error.pointer or "").startswith(ITEMS_POINTER):
        index, slash, rest = str(error.pointer)[len(ITEMS_POINTER) :].partition("/")
        offset = sum(len(items) for items in parts[: failure.index])
        error.pointer = f"{ITEMS_POINTER}{int(index) + offset}{slash}{rest}"
    return error
