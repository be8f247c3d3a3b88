"""One service with one worker, on which every case is registered before the first is compared."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

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

SAVE_SECONDS = 60.0
REGISTRATION_SECONDS = 120.0


class ParityService:
    """A service that embeds and classifies the items of cases.

    Args:
        http: A client of the service.
        folder: The folder of the models; each case has its own folder in it.
        references: What the libraries compute, by case.
    """

    def __init__(
        self, http: httpx.Client, folder: Path, references: Mapping[str, "Future[Reference]"]
    ) -> None:
        self._http = http
        self._folder = folder
        self._references = references
        self._registrations: dict[str, httpx.Response] = {}

    def register(self, case: Case) -> None:
        """Register the space of a case once its library has saved it; a worker then embeds it."""
        reference = self._references[case.id]
        if reference.exception(machine.deadline(SAVE_SECONDS)) is not None:
            return
        files = {"weights" if case.kind == "timm" else "model": str(self._folder / case.id)}
        encoder = {"kind": case.kind, **files, **reference.result().encoder}
        body = {"anchor_set": f"{case.modality}-anchors", "encoder": encoder}
        self._registrations[case.id] = self._http.put(f"/spaces/{case.id}", json=body)

    def reference(self, case: Case) -> Reference:
        """What the library of a case computes.

        Raises:
            Exception: What the library raised.
        """
        return result_of(self._references[case.id])

    def record(self, case: Case) -> dict[str, Any]:
        """The record of the space of a case, once it is ready."""
        response = self._registrations[case.id]
        assert response.is_success, response.text
        return self._ready(f"/spaces/{case.id}")

    def embed(self, case: Case) -> Floats:
        """The embeddings of the items of a case."""
        body = {"items": self._items(case)}
        response = self._http.post(f"/embed/{case.id}", json=body)
        assert response.is_success, response.text
        return np.array(response.json()["embeddings"], np.float32)

    def head(self, case: Case, body: Mapping[str, Any]) -> dict[str, Any]:
        """The record of the head of a case, registered in its space."""
        response = self._http.put(f"/heads/{case.id}", json={"space": case.id, **body})
        assert response.is_success, response.text
        return self._ready(f"/heads/{case.id}")

    def predictions(self, case: Case, top: int) -> list[dict[str, Any]]:
        """The predictions of the head of a case for its items."""
        body = {"items": self._items(case), "top": top}
        response = self._http.post(f"/stitch/{case.id}/{case.id}", json=body)
        assert response.is_success, response.text
        predictions: list[dict[str, Any]] = response.json()["predictions"]
        return predictions

    def _items(self, case: Case) -> list[str]:
        default = IMAGES if case.modality == "image" else TEXTS
        return as_json(self.reference(case).items or default)

    def _ready(self, path: str) -> dict[str, Any]:
        """The record of a resource, once no worker prepares it any more."""
        record: dict[str, Any] = {}

        def prepared() -> bool:
            record.clear()
            record.update(self._http.get(path).json())
            return record.get("status") != "pending"

        wait_until(f"{path} is registered", prepared, REGISTRATION_SECONDS)
        assert record["status"] == "ready", record.get("reason")
        return record


def as_json(items: Sequence[str | bytes]) -> list[str]:
    """Items as a JSON body has them: images in base64."""
    return [i if isinstance(i, str) else base64.b64encode(i).decode() for i in items]


@pytest.fixture(scope="module")
def parity(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ParityService]:
    """A service on which the selected cases are registered."""
    folder = tmp_path_factory.mktemp("parity")
    cases = _selected_cases(request)
    # Libraries compute in one thread, as their random numbers have one state, while the service
    # starts.
    with ThreadPoolExecutor(1) as pool:
        references = {case.id: pool.submit(_save, case, folder / case.id) for case in cases}
        with (
            running(roots=(folder,), STITCHWORK_COMPILE_MODELS="false") as service,
            httpx.Client(base_url=service.url, timeout=machine.deadline(60)) as http,
        ):
            for modality, anchors in (("text", TEXT_ANCHORS), ("image", IMAGE_ANCHORS)):
                body = {"modality": modality, "items": as_json(anchors)}
                response = http.put(f"/anchor-sets/{modality}-anchors", json=body)
                assert response.is_success, response.text
            service_of_cases = ParityService(http, folder, references)
            for case in cases:
                service_of_cases.register(case)
            yield service_of_cases


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
