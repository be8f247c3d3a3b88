"""Sends requests to the streams, those of one turn of the event loop together, and cancels them."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from stitchwork.errors import QueueFullError, QueueUnavailableError, UnavailableError
from stitchwork.queue import admission_scripts
from stitchwork.queue.admission import (
    AdmissionLimits,
    Parts,
    admit_arguments,
    cancel_arguments,
    create_arguments,
    parse_admission,
)
from stitchwork.queue.keys import ShardKeys, stream_name
from stitchwork.queue.outages import log_outage
from stitchwork.queue.pending_requests import PendingRequest
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.redis.async_client import AsyncRedisClient
from stitchwork.redis.commands import script_command
from stitchwork.telemetry import Metrics

MAX_CREATIONS: Final = 3
BULK_SECONDS: Final = 60.0
"""Time in addition to that of other calls in which a large request may be sent."""
MAX_SCRIPT_BYTES: Final = 256 * 1024
"""Size of the jobs that one script admits, if they are of several requests. A script that has begun
to write goes on when the server runs out of memory. A larger request is sent only if it would be
admitted."""


class Admitter:
    """Admits and cancels the requests of one API process.

    Args:
        client: A client of a shard's server.
        shard: The keys of the shard.
        api: The API process to reply to.
        caller_classes: Number of classes of callers.
        limits: Returns how much may wait for an encoder, given its key and its model's name.
        on_full: Called with each request that is refused, and why.
        metrics: Counts cancelled jobs.
    """

    def __init__(
        self,
        client: AsyncRedisClient,
        shard: ShardKeys,
        api: str,
        caller_classes: int,
        *,
        limits: Callable[[str, ModelRequirement], AdmissionLimits],
        on_full: Callable[[PendingRequest, QueueFullError], None],
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._shard = shard
        # A large job takes its time on a connection, and others do not wait for it.
        self._bulk_client = client.blocking(BULK_SECONDS)
        self._api = api
        self._caller_classes = caller_classes
        self._limits = limits
        self._on_full = on_full
        self._metrics = metrics
        self._unadmitted: list[PendingRequest] = []
        self._cancellations: set[asyncio.Future[list[Any]]] = set()

    def admit(self, request: PendingRequest) -> None:
        """Send a request with all others of this turn of the event loop."""
        if not self._unadmitted:
            asyncio.get_running_loop().call_soon(self._admit)
        self._unadmitted.append(request)

    async def check_room(
        self, encoder: str, requirement: ModelRequirement, trials: Sequence[Parts]
    ) -> None:
        """Check that at least one of several requests would be admitted, without admitting it.

        Args:
            encoder: Key of the encoder.
            requirement: What its jobs require of a worker.
            trials: The requests.

        Raises:
            QueueFullError: If none would be; for the reason of the first.
            QueueUnavailableError: If the queue server is unavailable.
        """
        limits = self._limits(encoder, requirement)
        keys, arguments = admit_arguments(
            self._shard,
            encoder,
            self._caller_classes,
            trials,
            api=self._api,
            limits=limits,
            is_trial=True,
        )
        results = await self._client.run_script(admission_scripts.ADMIT, keys, *arguments)
        refusals = list[QueueFullError]()
        for trial, result in zip(trials, results, strict=True):
            try:
                parse_admission(result, limits, trial.caller)
            except QueueFullError as full:
                refusals.append(full)
        if len(refusals) == len(trials):
            raise refusals[0]

    def cancel(self, request: PendingRequest) -> None:
        """Take the jobs of a request that nobody waits for any more out of the queue."""
        entries = request.unanswered()
        if not entries:
            # It is not admitted yet, or never will be.
            return
        keys, arguments = cancel_arguments(self._shard, request.stream, entries)
        reply = self._client.send(script_command(admission_scripts.CANCEL, keys, *arguments))
        self._cancellations.add(reply)
        reply.add_done_callback(self._count_cancelled)

    async def finish_transfer(self, request: PendingRequest) -> None:
        """Wait until the bytes of a large request are at the server; at its deadline, drop them.

        Meanwhile they are in the memory of this process, whether or not somebody waits.
        """
        clock = asyncio.get_running_loop().time
        try:
            # Another one follows where the stream had to be created.
            while (
                (transfer := request.transfer) is not None
                and not transfer.done()
                and (remaining := request.deadline - clock()) > 0
            ):
                await asyncio.wait([transfer], timeout=remaining)
        finally:
            if request.transfer is not None and not request.transfer.done():
                self._bulk_client.discard(request.transfer)

    async def close(self) -> None:
        """Wait until the cancellations that were sent are done."""
        if self._cancellations:
            await asyncio.wait(self._cancellations)
        await self._bulk_client.close()

    def _admit(self) -> None:
        """Send the requests of this turn, with one script for each encoder."""
        requests, self._unadmitted = self._unadmitted, []
        by_encoder: dict[str, list[PendingRequest]] = {}
        for request in requests:
            # A caller that left within this turn admits nothing.
            if not request.future.done():
                by_encoder.setdefault(request.encoder, []).append(request)
        for members in by_encoder.values():
            for batch in _batches(members):
                if sum(map(_size_of, batch)) > MAX_SCRIPT_BYTES:
                    self._try(*batch)
                else:
                    self._send(batch, MAX_CREATIONS)

    def _try(self, request: PendingRequest) -> None:
        """Send a large request only if it would be admitted: the server has other work."""
        limits = self._limits(request.encoder, request.requirement)
        keys, arguments = admit_arguments(
            self._shard,
            request.encoder,
            self._caller_classes,
            (request.parts,),
            api=self._api,
            limits=limits,
            is_trial=True,
        )
        reply = self._client.send(script_command(admission_scripts.ADMIT, keys, *arguments))
        reply.add_done_callback(partial(self._settle_trial, request, limits))

    def _settle_trial(
        self,
        request: PendingRequest,
        limits: AdmissionLimits,
        reply: "asyncio.Future[list[Any]]",
    ) -> None:
        """Send a request whose trial has passed."""
        if reply.cancelled() or request.future.done():
            return
        error = reply.exception()
        if error is not None:
            request.fail(_unavailable(error))
            return
        try:
            parse_admission(reply.result()[-1][0], limits, request.parts.caller)
        except QueueFullError as full:
            self._on_full(request, full)
            request.fail(full)
            return
        self._send([request], MAX_CREATIONS)

    def _send(
        self, requests: list[PendingRequest], creations: int, *, create: bool = False
    ) -> None:
        """Send requests for one encoder.

        Args:
            requests: The requests.
            creations: How many times the streams may be created, if they do not exist.
            create: Whether to create them now.
        """
        first = requests[0]
        limits = self._limits(first.encoder, first.requirement)
        commands = []
        if create:
            keys, arguments = create_arguments(
                self._shard, first.encoder, first.requirement, self._caller_classes
            )
            commands.append(script_command(admission_scripts.CREATE_STREAMS, keys, *arguments))
        parts = [request.parts for request in requests]
        keys, arguments = admit_arguments(
            self._shard, first.encoder, self._caller_classes, parts, api=self._api, limits=limits
        )
        commands.append(script_command(admission_scripts.ADMIT, keys, *arguments))
        is_large = sum(map(_size_of, requests)) > MAX_SCRIPT_BYTES
        reply = (self._bulk_client if is_large else self._client).send(*commands)
        if is_large:
            first.transfer = reply
        reply.add_done_callback(partial(self._settle, requests, limits, creations))

    def _settle(
        self,
        requests: list[PendingRequest],
        limits: AdmissionLimits,
        creations: int,
        reply: "asyncio.Future[list[Any]]",
    ) -> None:
        """Take what the server decided on requests for one encoder."""
        if reply.cancelled():
            return
        error = reply.exception()
        if error is not None:
            for request in requests:
                request.fail(_unavailable(error))
            return
        results = reply.result()[-1]
        missing: list[PendingRequest] = []
        for request, result in zip(requests, results, strict=True):
            try:
                admitted = parse_admission(result, limits, request.parts.caller)
            except QueueFullError as full:
                self._on_full(request, full)
                request.fail(full)
                continue
            if admitted is not None:
                request.stream = stream_name(request.encoder, admitted.caller_class)
                request.entries = admitted.entries
                if request.future.done():
                    self.cancel(request)
            elif request.future.done():
                continue
            elif creations:
                missing.append(request)
            else:
                request.fail(QueueUnavailableError("the queue server does not keep new streams"))
        if missing:
            self._send(missing, creations - 1, create=True)

    def _count_cancelled(self, reply: "asyncio.Future[list[Any]]") -> None:
        self._cancellations.discard(reply)
        if reply.cancelled():
            return
        error = reply.exception()
        if error is not None:
            log_outage(_unavailable(error), "the cancelled jobs may run until their deadline")
            return
        self._metrics.cancelled_jobs.inc(sum(result > 0 for result in reply.result()[0]))


def _batches(requests: list[PendingRequest]) -> Iterator[list[PendingRequest]]:
    """Requests in order, in batches for one script each."""
    batch, size = list[PendingRequest](), 0
    for request in requests:
        added = _size_of(request)
        if batch and size + added > MAX_SCRIPT_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += added
    if batch:
        yield batch


def _size_of(request: PendingRequest) -> int:
    return sum(len(part.data) for part in request.parts.parts)


def _unavailable(error: BaseException) -> UnavailableError:
    if isinstance(error, UnavailableError):
        return QueueUnavailableError(error.message)
    raise error
