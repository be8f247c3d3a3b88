"""Reports that the service computes in the background."""

from collections.abc import Mapping
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any, Final

from stitchwork.client.flows import Flow, Pause, send
from stitchwork.client.progress import Progress, progress_callback
from stitchwork.client.service_errors import read_json

MIN_PAUSE_SECONDS: Final = 0.1


def read_report(
    path: str, query: Mapping[str, Any], progress: Progress | bool = False
) -> Flow[dict[str, Any]]:
    """Read a report, once it is computed.

    Args:
        path: Path of the report.
        query: Parameters of the query.
        progress: Called with the results done and all results; True draws a bar.
    """
    with ExitStack() as stack:
        callback: Progress | None = None
        while True:
            response = yield from send("GET", path, query=query)
            body = read_json(response)
            if response.status_code != HTTPStatus.ACCEPTED:
                return body
            done, total = body["progress"]["done"], body["progress"]["total"]
            callback = callback or stack.enter_context(
                progress_callback(progress, "comparing", total)
            )
            callback(done, total)
            seconds = float(response.headers.get("Retry-After", MIN_PAUSE_SECONDS))
            yield Pause(max(seconds, MIN_PAUSE_SECONDS))
