"""Which refusals of a request are remembered for other requests of its caller."""

import asyncio

import pytest

from stitchwork.errors import QueueFullError
from stitchwork.queue.admission import UNLIMITED, Parts, parse_admission
from stitchwork.queue.callers import NOBODY
from stitchwork.queue.full_queues import FullQueues
from stitchwork.queue.pending_requests import PendingRequest
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.resources import TextEncoder, encoder_key

ENCODER = TextEncoder(model="words")


@pytest.mark.parametrize(
    ("limit", "room", "is_remembered"),
    [
        ("max-jobs", 0, True),
        ("max-jobs", 2, False),
        ("share-of-jobs", 0, True),
        ("max-inputs", 0, True),
        ("max-age", 0, True),
        ("max-wait", 0, True),
        # A request with a longer deadline may be admitted.
        ("too-long", 0, False),
        # A smaller one may be.
        ("max-bytes", 0, False),
        ("share-of-bytes", 0, False),
    ],
)
def test_refusal_is_remembered_only_if_it_concerns_every_request(
    limit: str, room: int, is_remembered: bool
) -> None:
    async def main() -> None:
        queues = FullQueues(600.0)
        request = PendingRequest(Parts((), 100), encoder_key(ENCODER), ModelRequirement.of(ENCODER))
        with pytest.raises(QueueFullError) as refusal:
            parse_admission([limit.encode(), room, 0], UNLIMITED, NOBODY)
        queues.add(request, refusal.value)
        if is_remembered:
            with pytest.raises(QueueFullError) as again:
                queues.check(ENCODER)
            assert (again.value.message, again.value.limit) == (refusal.value.message, limit)
        else:
            queues.check(ENCODER)

    asyncio.run(main())
