"""The sync and the async client: they perform the flows that the operations are made of."""

import asyncio
import os
import re
import time
from abc import ABC, abstractmethod
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
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

from stitchwork.addresses import is_loopback
from stitchwork.client.flows import Flow, Parallel, Pause, Request, Step
from stitchwork.client.inference_operations import InferenceOperations
from stitchwork.client.move_operations import MoveOperations
from stitchwork.client.report_operations import ReportOperations
from stitchwork.client.resource_operations import ResourceOperations
from stitchwork.client.retry_stops import AsyncStop, ThreadStop
from stitchwork.client.service_errors import (
    ServiceError,
    is_transient,
    raise_for_error,
    transport_errors,
)
from stitchwork.errors import InvalidInputError, StitchworkError

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8765"
TIMEOUT: Final = 60.0
RETRIES: Final = 5
MAX_TIMEOUT: Final = 86_400.0
IN_FLIGHT: Final = 3
"""One part is sent, one is computed, and one is received."""
_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BACKOFF: Final = wait_random_exponential(multiplier=0.1, max=8)


class _Client(ResourceOperations, ReportOperations, InferenceOperations, MoveOperations, ABC):
    """The configuration of both clients.

    Args:
        url: Address of the service; default: STITCHWORK_URL, else this machine.
        timeout: Seconds that one request may take.
        key: An API key; default: STITCHWORK_KEY, if it is set.
        retries: How often a request is repeated that was refused for the moment (429, 503), or
            whose connection failed, where that is safe. A part of a large call is repeated for
            `timeout` seconds at least.
        in_flight: Parts of a large call that may be in progress at the same time.
        restarts: How often a large call begins again if a space or a head that it uses is replaced
            during it; its parts are always of the same versions.

    Raises:
        InvalidInputError: If the URL, the key or the timeout is invalid.
    """

    def __init__(
        self,
        url: str | None = None,
        timeout: float = TIMEOUT,
        *,
        key: str | None = None,
        retries: int = RETRIES,
        in_flight: int = IN_FLIGHT,
        restarts: int = 0,
    ) -> None:
        super().__init__(in_flight, timeout, restarts)
        base_url = _service_url(url or os.environ.get("STITCHWORK_URL") or DEFAULT_URL)
        self.url = f"{base_url.scheme}://{base_url.netloc.decode()}"
        key = key or os.environ.get("STITCHWORK_KEY")
        if key and not _KEY.fullmatch(key):
            # The message does not repeat the key, which is a secret.
            raise InvalidInputError(
                "STITCHWORK_KEY (or --key) is not an API key: expected letters, digits, - and _"
            )
        if not 0 < timeout <= MAX_TIMEOUT:
            raise InvalidInputError(
                f"timeout: expected seconds, more than 0 and at most {MAX_TIMEOUT:g}, got {timeout}"
            )
        self._base_url, self._key, self._retries = base_url, key, retries
        self._options: dict[str, Any] = {
            "base_url": base_url,
            "timeout": timeout,
            # The service drops work whose caller has stopped waiting.
            # HTTP_PROXY is for other machines: a proxy would look for the service on its own.
            "mounts": {f"all://{base_url.netloc.decode()}": None}
            if is_loopback(base_url.host)
            else None,
            "headers": {"X-Request-Timeout": f"{timeout:g}"}
            | ({"Authorization": f"Bearer {key}"} if key else {}),
        }
        self._connect()

    def with_options(self, *, timeout: float, retries: int) -> Self:
        """Another client of the same service, with the same key; it is closed by itself.

        Args:
            timeout: Seconds that one request may take.
            retries: How often a request is repeated.

        Raises:
            InvalidInputError: If the timeout is invalid.
        """
        return type(self)(str(self._base_url), timeout, key=self._key, retries=retries)

    @abstractmethod
    def _connect(self) -> None:
        """Create the HTTP client."""

    def _retry_options(
        self, request: Request, stop: ThreadStop | AsyncStop | None
    ) -> dict[str, Any]:
        """The options of tenacity for a request, which is not repeated after a stop."""
        # Without the request and its body: tenacity's objects live until garbage collection.
        repeatable = request.repeatable
        attempts = stop_after_attempt(1 + self._retries)
        # A part may have to wait for all others that are in progress.
        patience = stop_after_delay(self.in_flight * self.timeout)
        limit = attempts & patience if request.is_part else attempts
        options: dict[str, Any] = {
            "retry": retry_if_exception(lambda error: is_transient(error, repeatable=repeatable)),
            "stop": limit,
            "wait": _retry_wait,
            "reraise": True,
        }
        if stop is not None:
            options |= {"stop": limit | stop, "sleep": stop.sleep}
        return options


def _service_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidInputError(f"expected a URL such as {DEFAULT_URL}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInputError(f"expected a URL such as {DEFAULT_URL}, got {text[:80]!r}")
    return url


def _retry_wait(state: RetryCallState) -> float:
    """The seconds of Retry-After, plus an exponential backoff."""
    error = state.outcome.exception() if state.outcome else None
    retry_after = error.retry_after if isinstance(error, ServiceError) else None
    return (retry_after or 0.0) + _BACKOFF(state)


class Stitchwork(_Client):
    """A client of one service, whose methods return their results. Threads may share it."""

    _http: httpx.Client

    def _connect(self) -> None:
        self._http = httpx.Client(**self._options)

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

    def perform(self, flow: Flow[T], stop: ThreadStop | None = None) -> T:
        """Perform a flow, and return its result.

        Args:
            flow: The flow.
            stop: After it, no request is repeated.
        """
        try:
            step = next(flow)
            while True:
                try:
                    result = self._step(step, stop)
                except Exception as error:  # noqa: BLE001 the flow handles or raises it
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            flow.close()

    def _step(self, step: Step, stop: ThreadStop | None) -> Any:
        if isinstance(step, Request):
            return Retrying(**self._retry_options(step, stop))(self._attempt, step)
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        return self._perform_all(step)

    def _perform_all(self, parallel: Parallel) -> None:
        running: set[Future[Any]] = set()
        pool = ThreadPoolExecutor(parallel.max_concurrency, thread_name_prefix="part")
        stop, is_interrupted = ThreadStop(), False
        try:
            for flow in parallel.flows:
                running.add(pool.submit(self.perform, flow, stop))
                if len(running) >= parallel.max_concurrency:
                    self._collect(parallel, running)
            while running:
                self._collect(parallel, running)
        except Exception:
            stop.set()
            wait(running)
            for future in running:
                with suppress(StitchworkError):
                    parallel.on_result(future.result())
            raise
        except BaseException:
            is_interrupted = True
            stop.set()
            raise
        finally:
            # An interrupt does not wait for the parts in progress.
            pool.shutdown(wait=not is_interrupted, cancel_futures=is_interrupted)

    @staticmethod
    def _collect(parallel: Parallel, running: set[Future[Any]]) -> None:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            running.discard(future)
            parallel.on_result(future.result())

    def _attempt(self, request: Request) -> httpx.Response:
        with transport_errors(self.url, self.timeout):
            response = self._http.request(**request.arguments())
        return raise_for_error(_without_stream(response))


class AsyncStitchwork(_Client):
    """A client of one service, whose methods are awaited, in one event loop."""

    _http: httpx.AsyncClient

    def _connect(self) -> None:
        self._http = httpx.AsyncClient(**self._options)

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

    async def perform(self, flow: Flow[T], stop: AsyncStop | None = None) -> T:
        """Perform a flow, and return its result.

        Args:
            flow: The flow.
            stop: After it, no request is repeated.
        """
        try:
            step = next(flow)
            while True:
                try:
                    result = await self._step(step, stop)
                except Exception as error:  # noqa: BLE001 the flow handles or raises it
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            flow.close()

    async def _step(self, step: Step, stop: AsyncStop | None) -> Any:
        if isinstance(step, Request):
            return await AsyncRetrying(**self._retry_options(step, stop))(self._attempt, step)
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        return await self._perform_all(step)

    async def _perform_all(self, parallel: Parallel) -> None:
        running: set[asyncio.Task[Any]] = set()
        stop = AsyncStop()
        try:
            for flow in parallel.flows:
                running.add(asyncio.ensure_future(self.perform(flow, stop)))
                if len(running) >= parallel.max_concurrency:
                    await self._collect(parallel, running)
            while running:
                await self._collect(parallel, running)
        except Exception:
            stop.set()
            if running:
                await asyncio.wait(running)
            for task in running:
                with suppress(StitchworkError):
                    parallel.on_result(task.result())
            raise
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    @staticmethod
    async def _collect(parallel: Parallel, running: set[asyncio.Task[Any]]) -> None:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            running.discard(task)
            parallel.on_result(task.result())

    async def _attempt(self, request: Request) -> httpx.Response:
        with transport_errors(self.url, self.timeout):
            response = await self._http.request(**request.arguments())
        return raise_for_error(_without_stream(response))


def _without_stream(response: httpx.Response) -> httpx.Response:
    """A response that was read, without its stream.

    The two refer to each other: parts would stay in memory until garbage collection.
    """
    response.stream = httpx.ByteStream(b"")
    return response
