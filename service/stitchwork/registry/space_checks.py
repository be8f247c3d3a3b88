"""Compares the anchors of a new space with those of the others on its set, in the background.

The comparison takes seconds for each pair of spaces, so a registration does not wait for it. That
it is due is stored with the space, in one commit; whichever process takes it first computes it, and
stores the result in the records of both spaces.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from stitchwork.background import NICENESS, PeriodicTask
from stitchwork.errors import NotReadyError, UnavailableError
from stitchwork.processes.pool import CallCancelledError, CallHandle, ProcessPool
from stitchwork.redis.client import Check, RedisClient
from stitchwork.redis.commands import Command
from stitchwork.registry.anchor_comparison import (
    AnchorComparison,
    compare_anchors,
    describe,
    with_checks,
)
from stitchwork.registry.entries import Entry, Outcome, Write
from stitchwork.registry.repository import Repository
from stitchwork.resources import AnchorSet, Floats, Space, SpaceCheck

log = logging.getLogger(__name__)

DUE: Final = "checks"
"""Sorted set of the ids of spaces to check, by the time from which a process may take them."""
LEASE_SECONDS: Final = 600.0
"""Time after which the check of a process that does not end is taken by another."""
MAX_COMPARED: Final = 8
"""Other spaces that a new one is compared with."""
PAGE_SIZE: Final = 200
"""Records that are read at once."""
POLL_SECONDS: Final = 10.0
"""How often workers look for checks that another process made due and did not make."""
IDLE_SECONDS: Final = 10.0
"""How often a thread that does not poll shows that it is alive."""
RETRY_SECONDS: Final = 5.0
PROCESS_SECONDS: Final = 5.0
"""Time after which the process of comparisons ends; more spaces are often registered by then."""

Comparer: TypeAlias = Callable[[Floats, Floats], AnchorComparison]
"""Compares the anchors of two spaces, such as in another process."""


def due(server: RedisClient, id_: str) -> Command:
    """The command that makes a check of a space due, as part of the commit that changes it.

    Of a space that is deleted, the check removes it from the records of the others.
    """
    return ("ZADD", server.key(DUE), 0, id_)


class SpaceChecks:
    """Checks spaces whose check is due.

    Args:
        server: The registry server.
        anchor_sets: The repository of anchor sets.
        spaces: The repository of spaces.
    """

    def __init__(
        self,
        server: RedisClient,
        anchor_sets: Repository[AnchorSet],
        spaces: Repository[Space],
    ) -> None:
        self._server = server
        self._anchor_sets = anchor_sets
        self._spaces = spaces

    def run(self, compare: Comparer = compare_anchors) -> int:
        """Check all spaces whose check is due and that no other process has taken.

        Args:
            compare: Compares the anchors of two spaces.

        Returns:
            The number of spaces that were checked.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
        """
        count = 0
        while self.run_next(compare):
            count += 1
        return count

    def run_next(self, compare: Comparer = compare_anchors) -> bool:
        """Check one space whose check is due and that no other process has taken.

        Args:
            compare: Compares the anchors of two spaces.

        Returns:
            False if there was none.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
        """
        id_ = self._take()
        if id_ is not None:
            self._check(id_, compare)
        return id_ is not None

    def _take(self) -> str | None:
        """Take one space that is due."""
        now, key = self._server.now_ms(), self._server.key(DUE)
        with self._server.session() as client:
            entries: list[tuple[bytes, float]] = client.zrangebyscore(  # type: ignore[assignment]
                key, "-inf", now, start=0, num=MAX_COMPARED, withscores=True
            )
        for name, score in entries:
            check = Check(("ZSCORE", key, name), f"{score:.0f}")
            command: Command = ("ZADD", key, now + int(LEASE_SECONDS * 1000), name)
            if self._server.commit([check], [command]):
                return name.decode()
        return None

    def _check(self, id_: str, compare: Comparer) -> None:
        space = self._spaces.readable(id_).record
        if space is None:
            self._remove_comparisons(id_)
            self._server.execute(("ZREM", self._server.key(DUE), id_))
            return
        (anchor_set,) = self._anchor_sets.read(space.anchor_set)
        names = anchor_set.record.ids if anchor_set.record else None
        anchors, checks = self._anchors(space), []
        try:
            for other in self._others(space):
                comparison = compare(anchors, self._anchors(other))
                checks.append(describe(comparison, other, names))
                self._store(other, (describe(comparison.reverse(), space, names),))
            self._store(space, tuple(checks), completes=True)
        except NotReadyError:
            # It was registered anew, and its check is due again, or deleted.
            log.info("space check superseded", extra={"space": id_})
            return
        doubtful = [check.space for check in checks if check.warning]
        log.info("space checked", extra={"space": id_, "compared": len(checks), "doubt": doubtful})

    def _exists(self, id_: str) -> Check:
        """Holds until a space is deleted."""
        return Check(("ZSCORE", self._server.key("space"), id_), "0")

    def _remove_comparisons(self, id_: str) -> None:
        """Remove the comparisons with a space that was deleted from the records of the others."""
        cursor: str | None = None
        while True:
            page = self._spaces.page(PAGE_SIZE, cursor)
            for entry in page.entries:
                if entry.record and any(c.space == id_ for c in entry.record.checks or ()):
                    self._store(entry.record, ())
            if (cursor := page.cursor) is None:
                return

    def _present(self, anchor_set: str) -> list[str]:
        """Ids of the spaces on a set."""
        return [name.split(":", 1)[1] for name in self._anchor_sets.dependents(anchor_set)]

    def _others(self, space: Space) -> list[Space]:
        others = [id_ for id_ in self._present(space.anchor_set) if id_ != space.id]
        entries = self._spaces.read(*others[:MAX_COMPARED]) if others else []
        return [
            entry.record
            for entry in entries
            if entry.record and entry.record.anchor_set_version == space.anchor_set_version
        ]

    def _anchors(self, space: Space) -> Floats:
        anchors: Floats = self._spaces.arrays(space.id, space.version)["anchors"]
        return anchors

    def _store(
        self,
        space: Space,
        checks: tuple[SpaceCheck, ...],
        *,
        completes: bool = False,
    ) -> None:
        """Store comparisons in the record of a space.

        Args:
            space: The space.
            checks: The comparisons. They replace those with the same spaces; those with spaces
                that are no longer on the set are dropped.
            completes: Whether these are all comparisons that its own check makes. Otherwise the
                check of another space made them, and a space that is no longer the same is left
                unchanged.

        Raises:
            NotReadyError: If `completes`, and the space is no longer the same.
        """

        def decide(current: Entry[Space]) -> Write[Space]:
            record = current.record
            if record is None or record.version != space.version:
                raise NotReadyError(f"space {space.id} was declared anew or deleted")
            commands: list[Command] = []
            if completes:
                commands.append(("ZREM", self._server.key(DUE), space.id))
            present = self._present(record.anchor_set)
            updated = with_checks(record, checks, present)
            exist = [self._exists(check.space) for check in updated.checks or ()]
            return Write(
                Outcome.SAME, updated, current.registration, checks=exist, commands=commands
            )

        try:
            self._spaces.put(space.id, decide)
        except NotReadyError:
            if completes:
                raise


class SpaceCheckThread:
    """Runs checks that are due, in a thread, and their comparisons in a child process.

    The process has a low priority, and memory that a comparison takes ends with it.

    Args:
        checks: The checks.
        poll_seconds: Time after which it looks for checks that another process made due and did
            not make, such as one that was killed; None looks only when `wake` is called.

    Attributes:
        task: Its background task.
    """

    def __init__(self, checks: SpaceChecks, poll_seconds: float | None = None) -> None:
        self._checks = checks
        self._poll_seconds = poll_seconds
        self._due = threading.Event()
        self._stopping = threading.Event()
        # A check that takes longer than its lease is made by another process.
        self.task = PeriodicTask(
            "space-checks",
            self._run,
            0.0,
            stalled_seconds=LEASE_SECONDS,
        )
        self._pool = ProcessPool(1, idle_seconds=PROCESS_SECONDS, niceness=NICENESS)
        self._comparison = CallHandle()

    def start(self) -> None:
        """Begin."""
        self.task.start()

    def wake(self) -> None:
        """A check is due."""
        self._due.set()

    def stop(self) -> None:
        """Take no further checks. One in progress is taken again by another process, later."""
        self._stopping.set()
        self._due.set()
        self._comparison.cancel()
        self._pool.close()
        self.task.stop(0.0)

    def _compare(self, x: Floats, y: Floats) -> AnchorComparison:
        return self._pool.call(compare_anchors, x, y, handle=self._comparison)

    def _run(self) -> None:
        """Wait until a check may be due, and make one."""
        is_due = self._due.wait(self._poll_seconds or IDLE_SECONDS)
        self._due.clear()
        if self._stopping.is_set() or not (is_due or self._poll_seconds):
            return
        try:
            may_be_more = self._checks.run_next(self._compare)
        except CallCancelledError:
            return
        except UnavailableError as error:
            log.warning("server unavailable", extra={"reason": error.message})
            self._stopping.wait(RETRY_SECONDS)
            may_be_more = True
        if may_be_more:
            self._due.set()
