"""Carry out what the operations are made of: by waiting, or by awaiting."""

import asyncio
import os
import time
from abc import ABC, abstractmethod
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from stitchwork.client.flows import Flow, Many, Pause, Request, Step
from stitchwork.client.operations import Operations
from stitchwork.client.service_errors import ServiceError, checked, passes, transport
from stitchwork.errors import InvalidInputError

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8765"
TIMEOUT: Final = 60.0
RETRIES: Final = 5
IN_FLIGHT: Final = 3
"""One part is on its way, one is computed, and one is on its way back."""
_BACKING_OFF: Final = wait_random_exponential(multiplier=0.1, max=8)


class _Client(Operations, ABC):
    """What both kinds of client are set up with.

    Args:
        url: Where the service listens; unset: STITCHWORK_URL, or this machine.
        timeout: Seconds one request may take.
        key: An API key; unset: STITCHWORK_KEY, if there is one.
        retries: How often a request is sent again that was refused for now (429, 503), or whose
            connection failed. Only what is safe to send again is. A part of a large call is sent
            again for `timeout` seconds at least.
        in_flight: Parts of a large call that are under way at the same time.

    Raises:
        InvalidInputError: If the URL is none.
    """

    def __init__(
        self,
        url: str | None = None,
        timeout: float = TIMEOUT,
        *,
        key: str | None = None,
        retries: int = RETRIES,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        super().__init__(in_flight)
        given = _service_url(url or os.environ.get("STITCHWORK_URL") or DEFAULT_URL)
        self.url = f"{given.scheme}://{given.netloc.decode()}"
        key = key or os.environ.get("STITCHWORK_KEY")
        self._timeout = timeout
        self._retries = retries
        self._setup: dict[str, Any] = {
            "base_url": given,
            "timeout": timeout,
            # Work that nobody waits for any more is dropped before it is done.
            "headers": {"X-Request-Timeout": f"{timeout:g}"}
            | ({"Authorization": f"Bearer {key}"} if key else {}),
        }
        self._connect()

    @abstractmethod
    def _connect(self) -> None:
        """Make the connections that requests go over."""

    def _policy(self, request: Request) -> dict[str, Any]:
        """When to send it again, and how long to wait before, for tenacity."""
        # Not the request itself, with its body: tenacity's objects live until they are collected.
        repeatable = request.repeatable
        often = stop_after_attempt(1 + self._retries)
        return {
            "retry": retry_if_exception(lambda e: passes(e, repeatable=repeatable)),
            "stop": often & stop_after_delay(self._timeout) if request.is_part else often,
            "wait": _seconds,
            "reraise": True,
        }


def _service_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidInputError(f"expected a URL such as {DEFAULT_URL}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInputError(f"expected a URL such as {DEFAULT_URL}, got {text[:80]!r}")
    return url


def _seconds(state: RetryCallState) -> float:
    """At least what the service asked for, and more the more often it refused."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ServiceError) else None
    return (asked or 0.0) + _BACKING_OFF(state)


class Stitchwork(_Client):
    """One service; methods return their answers. Threads may share it. See `Operations`."""

    _http: httpx.Client

    def _connect(self) -> None:
        self._http = httpx.Client(**self._setup)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def perform(self, flow: Flow[T]) -> T:
        """Carry out a flow, and wait for what it returns."""
        try:
            step = next(flow)
            while True:
                try:
                    found = self._step(step)
                except Exception as error:  # noqa: BLE001 the flow's to handle, or to pass on
                    step = flow.throw(error)
                else:
                    step = flow.send(found)
        except StopIteration as end:
            answer: T = end.value
            return answer
        finally:
            flow.close()

    def _step(self, step: Step) -> Any:
        if isinstance(step, Request):
            return Retrying(**self._policy(step))(self._attempt, step)
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        return self._many(step)

    def _many(self, many: Many) -> None:
        running: set[Future[Any]] = set()
        with ThreadPoolExecutor(many.at_once, thread_name_prefix="part") as pool:
            for flow in many.flows:
                running.add(pool.submit(self.perform, flow))
                if len(running) >= many.at_once:
                    running = self._reap(many, running)
            while running:
                running = self._reap(many, running)

    @staticmethod
    def _reap(many: Many, running: set[Future[Any]]) -> set[Future[Any]]:
        done, rest = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            many.each(future.result())
        return rest

    def _attempt(self, request: Request) -> httpx.Response:
        with transport(self.url, self._timeout):
            answer = self._http.request(**_told(request))
        return checked(_untied(answer))


class AsyncStitchwork(_Client):
    """One service; methods are awaited, in one event loop. See `Operations`."""

    _http: httpx.AsyncClient

    def _connect(self) -> None:
        self._http = httpx.AsyncClient(**self._setup)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def perform(self, flow: Flow[T]) -> T:
        """Carry out a flow, and await what it returns."""
        try:
            step = next(flow)
            while True:
                try:
                    found = await self._step(step)
                except Exception as error:  # noqa: BLE001 the flow's to handle, or to pass on
                    step = flow.throw(error)
                else:
                    step = flow.send(found)
        except StopIteration as end:
            answer: T = end.value
            return answer
        finally:
            flow.close()

    async def _step(self, step: Step) -> Any:
        if isinstance(step, Request):
            return await AsyncRetrying(**self._policy(step))(self._attempt, step)
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        return await self._many(step)

    async def _many(self, many: Many) -> None:
        running: set[asyncio.Task[Any]] = set()
        try:
            for flow in many.flows:
                running.add(asyncio.ensure_future(self.perform(flow)))
                if len(running) >= many.at_once:
                    running = await self._reap(many, running)
            while running:
                running = await self._reap(many, running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    @staticmethod
    async def _reap(many: Many, running: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
        done, rest = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            many.each(task.result())
        return rest

    async def _attempt(self, request: Request) -> httpx.Response:
        with transport(self.url, self._timeout):
            answer = await self._http.request(**_told(request))
        return checked(_untied(answer))


def _told(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query,
        "headers": request.headers,
        "content": request.content,
    }


def _untied(answer: httpx.Response) -> httpx.Response:
    """An answer that was read, freed as soon as nobody needs it.

    It and its stream refer to each other, and parts would pile up until the garbage is collected.
    """
    answer.stream = httpx.ByteStream(b"")
    return answer
