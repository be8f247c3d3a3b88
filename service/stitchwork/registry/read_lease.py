"""The lease under which a process answers from memory; `change_log` has the protocol."""

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from stitchwork.background import PeriodicTask
from stitchwork.errors import RegistryUnavailableError
from stitchwork.redis.subscription import Subscription
from stitchwork.registry.change_log import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    WAIT_SECONDS,
    ChangeLog,
    Position,
    Renewal,
    boot_time,
)

log = logging.getLogger(__name__)

MAX_IMMEDIATE: Final = 8
"""Renewals in a row that each report a change, before the thread waits for the next notice."""


class Droppable(Protocol):
    """Records in memory that a change can outdate."""

    def outdate(self, ids: Iterable[str] | None, verified: float) -> None:
        """Use the records of these ids, or of all, without a read no more.

        Args:
            ids: The ids; None for all.
            verified: When they were last known to be current, by the monotonic clock.
        """


class ReadLease:
    """The permission to use records in memory without a read, as long as it is valid.

    Without a `LeaseKeeper` it never is, and every request reads the registry.

    Attributes:
        lock: Held while records are added or dropped.
        verified: When the records in memory were last known to be current, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.verified = float("-inf")
        self._position = Position("", 0)
        self._expires = float("-inf")
        self._records: dict[str, list[Droppable]] = {}

    @property
    def is_valid(self) -> bool:
        """Whether records in memory may be used for a request that has come."""
        return boot_time() < self._expires

    @property
    def position(self) -> Position:
        """The changes that have been applied to the records in memory."""
        return self._position

    def attach(self, kind: str, records: Droppable) -> None:
        """Drop these records when ids of this kind change."""
        self._records.setdefault(kind, []).append(records)

    def covers(self, position: Position) -> bool:
        """Whether what was read at this position may be added; call it under the lock.

        What was read before a change that has been applied must not be: the change would not be
        applied to it again.
        """
        same = position.epoch == self._position.epoch
        return same and position.sequence >= self._position.sequence

    def apply(self, renewal: Renewal, *, sent: float, verified: float) -> None:
        """Drop what a renewal reports as changed, then use the lease.

        Args:
            renewal: The reply.
            sent: When the renewal was sent, by the clock of boot time.
            verified: The same by the monotonic clock.
        """
        with self.lock:
            if renewal.granted:
                self._drop(_by_kind(renewal.changed))
            else:
                self._expires = float("-inf")
                self._drop(dict.fromkeys(self._records))
            self._position = renewal.position
            if renewal.granted:
                self.verified = verified
                self._expires = sent + LEASE_SECONDS

    def end(self) -> None:
        """Use records in memory no more."""
        self._expires = float("-inf")

    def _drop(self, ids: Mapping[str, list[str] | None]) -> None:
        for kind, changed in ids.items():
            for records in self._records.get(kind, ()):
                records.outdate(changed, self.verified)


def _by_kind(names: Iterable[str]) -> dict[str, list[str] | None]:
    ids: dict[str, list[str]] = {}
    for name in names:
        kind, _, id_ = name.partition(":")
        ids.setdefault(kind, []).append(id_)
    return dict(ids)


class LeaseKeeper:
    """Renews a lease from a thread, in time and whenever a change is published.

    Args:
        changes: The log of the registry.
        lease: The lease of this process.

    Attributes:
        task: Its background task.
        is_connected: Whether the registry server answered the last renewal.
    """

    def __init__(self, changes: ChangeLog, lease: ReadLease) -> None:
        self._changes = changes
        self._lease = lease
        self._process = uuid.uuid4().hex
        self._epoch_since = float("inf")
        self._notices: Subscription | None = None
        self._stopping = threading.Event()
        self.task = PeriodicTask("version-lease", self._run, 0.0)
        self.is_connected = False
        self._has_lapsed = False

    def start(self) -> None:
        """Begin to renew."""
        self.task.start()

    def stop(self) -> None:
        """End the lease, so that writers need not wait for it."""
        self._stopping.set()
        self.task.stop()
        if self._notices is not None:
            self._notices.close()
        self._lease.end()
        try:
            self._changes.release(self._process)
        except RegistryUnavailableError as error:
            extra = {"reason": error.message, "effect": "the next writer waits until it runs out"}
            log.warning("version lease not released", extra=extra)

    def _run(self) -> None:
        """Renew, and wait until that is due again."""
        if self._notices is None:
            self._notices = self._changes.subscribe()
        try:
            self._renew()
            self.is_connected = True
            self._notices.wait(RENEW_SECONDS)
        except RegistryUnavailableError as error:
            self.is_connected = False
            self._report(error)
            self._stopping.wait(RENEW_SECONDS)

    def _renew(self) -> None:
        """Renew until a renewal has told the registry that all changes are applied."""
        for _ in range(MAX_IMMEDIATE):
            before = self._lease.position
            sent, verified = boot_time(), time.monotonic()
            settled = sent - self._epoch_since >= WAIT_SECONDS
            renewal = self._changes.renew(self._process, before, settled=settled)
            self._lease.apply(renewal, sent=sent, verified=verified)
            if renewal.position.epoch != before.epoch:
                self._epoch_since = boot_time()
            if renewal.granted and not renewal.changed:
                break
        if self._has_lapsed and self._lease.is_valid:
            self._has_lapsed = False
            log.info("version lease renewed")

    def _report(self, error: RegistryUnavailableError) -> None:
        if not self._has_lapsed and not self._lease.is_valid:
            self._has_lapsed = True
            extra = {"reason": error.message, "effect": "each request reads the registry"}
            log.warning("version lease expired", extra=extra)
