"""One service with one worker, which runs all cases side by side before they are compared."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from stitchwork.resources import Floats
from tests.integration.parity.cases import (
    IMAGE_ANCHORS,
    IMAGES,
    TEXT_ANCHORS,
    TEXTS,
    Case,
    Reference,
)
from tests.support import machine
from tests.support.running_service import running
from tests.support.waiting import result_of, wait_until

SECONDS = 180.0
"""Far more than all cases take together on an idle machine."""
CONCURRENT_CASES = 8


class Outcome(NamedTuple):
    """What a library and the service compute of the items of a case.

    Attributes:
        reference: What the library computes.
        record: The record of the space.
        rows: (n, d) the embeddings of the service.
        head: The record of the head, if the case has one.
        predictions: The predictions of the service, if the case has a head.
    """

    reference: Reference
    record: Mapping[str, Any]
    rows: Floats
    head: Mapping[str, Any]
    predictions: Sequence[Mapping[str, Any]]


class ParityService:
    """Runs cases on a service.

    Args:
        http: A client of the service.
        folder: The folder of the models; each case has its own folder in it.
    """

    def __init__(self, http: httpx.Client, folder: Path) -> None:
        self._http = http
        self._folder = folder
        for modality, anchors in (("text", TEXT_ANCHORS), ("image", IMAGE_ANCHORS)):
            body = {"modality": modality, "items": as_json(anchors)}
            self._send("PUT", f"/anchor-sets/{modality}-anchors", body)

    def run(self, case: Case, saved: "Future[Reference]") -> Outcome:
        """Register the space and the head of a case, and send its items to them.

        Args:
            case: The case.
            saved: What its library computes, once it has saved the model.
        """
        reference = result_of(saved, SECONDS)
        files = {"weights" if case.kind == "timm" else "model": str(self._folder / case.id)}
        encoder = {"kind": case.kind, **files, **reference.encoder}
        body = {"anchor_set": f"{case.modality}-anchors", "encoder": encoder}
        record = self._register(f"/spaces/{case.id}", body)
        items = as_json(reference.items or (IMAGES if case.modality == "image" else TEXTS))
        rows = self._send("POST", f"/embed/{case.id}", {"items": items})["embeddings"]
        head, predictions = {}, []
        if reference.head is not None:
            body = {"space": case.id, **reference.head.body}
            head = self._register(f"/heads/{case.id}", body)
            inputs = {"items": items, "top": len(reference.head.classes)}
            predictions = self._send("POST", f"/stitch/{case.id}/{case.id}", inputs)["predictions"]
        return Outcome(reference, record, np.array(rows, np.float32), head, predictions)

    def _register(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The record of a resource, once no worker prepares it any more."""
        record = self._send("PUT", path, body)

        def prepared() -> bool:
            record.update(self._send("GET", path))
            return str(record["status"]) != "pending"

        wait_until(f"{path} is registered", prepared, SECONDS)
        assert record["status"] == "ready", record["reason"]
        return record

    def _send(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        response = self._http.request(method, path, json=body)
        assert response.is_success, response.text
        answer: dict[str, Any] = response.json()
        return answer


def as_json(items: Sequence[str | bytes]) -> list[str]:
    """Items as a JSON body has them: images in base64."""
    return [i if isinstance(i, str) else base64.b64encode(i).decode() for i in items]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, "Future[Outcome]"]]:
    """The outcome of each case that is selected, by its id."""
    folder = tmp_path_factory.mktemp("parity")
    cases = _selected_cases(request)
    with ThreadPoolExecutor(1) as libraries, ThreadPoolExecutor(CONCURRENT_CASES) as clients:
        # The libraries save models while the service starts; in one thread, since random numbers
        # have one state.
        saved = {case.id: libraries.submit(_save, case, folder / case.id) for case in cases}
        with (
            running(roots=(folder,), STITCHWORK_COMPILE_MODELS="false") as service,
            httpx.Client(base_url=service.url, timeout=machine.deadline(60)) as http,
        ):
            parity = ParityService(http, folder)
            yield {case.id: clients.submit(parity.run, case, saved[case.id]) for case in cases}


@pytest.fixture
def outcome(case: Case, outcomes: Mapping[str, "Future[Outcome]"]) -> Outcome:
    """The outcome of a case."""
    return result_of(outcomes[case.id], SECONDS)


def _selected_cases(request: pytest.FixtureRequest) -> list[Case]:
    """The cases of the tests that are run, each once."""
    parameters = [
        item.callspec.params.get("case")
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    return list({case.id: case for case in parameters if isinstance(case, Case)}.values())


def _save(case: Case, folder: Path) -> Reference:
    folder.mkdir()
    return case.save(folder)
