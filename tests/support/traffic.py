"""Calls of a client while processes and servers are exchanged."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final

import httpx
import numpy as np

from tests.support import machine
from tests.support.cluster import is_refusal
from tests.support.waiting import wait_until

TEXTS: Final = ["a text", "another text"]
WIDTH: Final = 384
REQUESTS: Final = (
    ("/stitch/m/h", {"items": TEXTS}),
    ("/translate", {"source": "m", "target": "n", "embeddings": np.eye(1, WIDTH).tolist()}),
    ("/embed/m", {"items": TEXTS}),
    ("/stitch/n/h", {"items": TEXTS}),
    ("/stitch/m/h", {"items": TEXTS[:1]}),
)
"""Calls that need spaces `m` and `n` and a head `h` in `n`."""
CALLS_PER_PHASE: Final = 40


@dataclass
class Traffic:
    """Calls of one client that a load balancer sends to the API processes in turn.

    Attributes:
        urls: The API processes that are in turn.
        may_refuse: Whether a 429 or 503 that says when to try again is no failure.
        calls: Number of calls that were answered with 200.
        refusals: Number of calls that were refused.
        failures: What every other call got.
    """

    urls: list[str] = field(default_factory=list)
    may_refuse: bool = False
    calls: int = 0
    refusals: int = 0
    failures: list[str] = field(default_factory=list)
    _turn: int = 0
    _requests: Iterator[tuple[str, Any]] = field(default_factory=lambda: cycle(REQUESTS))
    _stopping: threading.Event = field(default_factory=threading.Event)

    def call(self, http: httpx.Client) -> None:
        """Send one request to the next process."""
        path, body = next(self._requests)
        self._turn += 1
        try:
            response = http.post(self.urls[self._turn % len(self.urls)] + path, json=body)
        except httpx.HTTPError as error:
            self.failures.append(f"{path}: {error!r}")
            return
        if self.may_refuse and is_refusal(response):
            self.refusals += 1
        elif response.status_code != 200:
            self.failures.append(f"{path}: {response.status_code} {response.text}")
        else:
            self.calls += 1

    def run(self) -> None:
        """Call until it is stopped."""
        with httpx.Client(timeout=machine.deadline(60)) as http:
            while not self._stopping.is_set():
                self.call(http)

    def stop(self) -> None:
        """Call no more."""
        self._stopping.set()

    def settle(self, phase: str) -> None:
        """Wait until the present processes have answered some calls, and none has failed."""
        target = self.calls + CALLS_PER_PHASE
        wait_until(phase, lambda: self.calls >= target or self.failures, 120)
        assert not self.failures, f"{phase}: {self.failures[:3]}"


@contextmanager
def traffic_to(*urls: str, may_refuse: bool = False) -> Iterator[Traffic]:
    """Calls in a thread, while the context lasts."""
    traffic = Traffic(list(urls), may_refuse)
    thread = threading.Thread(target=traffic.run)
    thread.start()
    try:
        yield traffic
    finally:
        traffic.stop()
        thread.join()
