"""Requests for reports, which are computed in the background."""

import time
from collections.abc import Mapping

import httpx

from tests.support import machine


def get_report(http: httpx.Client, path: str, query: Mapping[str, str]) -> httpx.Response:
    """The response to a request for a report, once it is not 202."""
    deadline = time.monotonic() + machine.deadline(60)
    while True:
        response = http.get(path, params=query)
        if response.status_code != 202 or time.monotonic() > deadline:
            return response
