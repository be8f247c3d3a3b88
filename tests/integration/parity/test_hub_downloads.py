"""Models that a service downloads from a hub: equal to their libraries, or refused by the cause."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

from tests.integration.parity.cases import IMAGE_ANCHORS, IMAGES, TEXT_ANCHORS, TEXTS, Reference
from tests.integration.parity.conftest import as_json
from tests.integration.parity.sentence_transformers_cases import (
    PROMPTS,
    WIDTH,
    reference,
    save,
)
from tests.integration.parity.timm_cases import described, library_reference, save_calibrated
from tests.integration.parity.tower_cases import TOWERS, image_tower, text_tower
from tests.integration.parity.transformers_cases import base_model
from tests.support import machine
from tests.support.model_hub import COMMIT, ModelHub, Repository, running_hub
from tests.support.running_service import running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

TIMM_MODEL = "test_vit.r160_in1k"


class HubService(NamedTuple):
    """A service that downloads models from a hub.

    Attributes:
        hub: The hub.
        http: A client of the service.
        folder: The folder of the hub's repositories.
    """

    hub: ModelHub
    http: httpx.Client
    folder: Path

    def publish(self, model: str, make: Callable[[Path], Reference]) -> Reference:
        """Save a model into a repository of the hub, and return what its library computes."""
        folder = self.folder / model
        folder.mkdir(parents=True)
        result = make(folder)
        self.hub.repositories[model] = Repository(folder)
        return result

    def register(self, space: str, **encoder: Any) -> dict[str, Any]:
        """The record of a space of an encoder, once it is ready or failed."""
        encoder = {"kind": "transformers", **encoder}
        modality = "text" if encoder["kind"] == "transformers" else "image"
        body = {"anchor_set": modality, "encoder": encoder}
        response = self.http.put(f"/spaces/{space}", json=body)
        assert response.is_success, response.text

        def record() -> dict[str, Any]:
            answer: dict[str, Any] = self.http.get(f"/spaces/{space}").json()
            return answer

        wait_until("the registration ends", lambda: record()["status"] != "pending")
        return record()

    def failure(self, space: str, **encoder: Any) -> str:
        """Why the registration of an encoder fails."""
        record = self.register(space, **encoder)
        assert record["status"] == "failed"
        return str(record["reason"])

    def assert_equal(self, space: str, expected: Reference) -> None:
        """Compare the embeddings of a space with those of its library."""
        items = expected.items or (IMAGES if space.startswith("image") else TEXTS)
        response = self.http.post(f"/embed/{space}", json={"items": as_json(items)})
        assert response.is_success, response.text
        rows = np.array(response.json()["embeddings"])
        scale = np.linalg.norm(expected.rows, axis=1, keepdims=True)
        np.testing.assert_allclose(rows / scale, expected.rows / scale, rtol=0, atol=1e-4)

    def downloads(self, model: str) -> set[str]:
        """The files of a model that were downloaded."""
        return {path for name, path in self.hub.downloads if name == model}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubService]:
    """A service that may load the models of two publishers from a local hub."""
    with running_hub() as hub, pytest.MonkeyPatch.context() as patch:
        # An offline worker that ran in this process has set it.
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("cache")))
        with (
            running(
                STITCHWORK_OFFLINE="false",
                STITCHWORK_HUB_MODELS="maker/*,timm/*",
                STITCHWORK_COMPILE_MODELS="false",
            ) as process,
            httpx.Client(base_url=process.url, timeout=machine.deadline(60)) as http,
        ):
            for modality, anchors in (("text", TEXT_ANCHORS), ("image", IMAGE_ANCHORS)):
                body = {"modality": modality, "items": as_json(anchors)}
                assert http.put(f"/anchor-sets/{modality}", json=body).is_success
            yield HubService(hub, http, tmp_path_factory.mktemp("hub"))


def sentence_model(folder: Path) -> Reference:
    """A model of several modules and prompts, with files that must not be downloaded."""
    torch.manual_seed(0)
    modules = [Pooling(WIDTH, "cls"), Dense(WIDTH, 12), Normalize()]
    save(folder, modules, prompts=PROMPTS, default_prompt_name="query")
    result = reference(folder)
    for name in ("pytorch_model.bin", "modeling.py", "onnx/model.onnx", "onnx/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"never read")
    return result


def pushed_image_model(folder: Path) -> Reference:
    """An image model as timm pushes it to the hub."""
    model = save_calibrated("test_vit", folder)
    return library_reference(model, {})


def pickled(folder: Path) -> Reference:
    """A model whose weights are a pickle alone."""
    result = base_model("bert", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return result


bert = partial(base_model, "bert")


def test_all_files_of_a_sentence_transformers_repository_are_downloaded_and_no_others(
    service: HubService,
) -> None:
    expected = service.publish("maker/sentences", sentence_model)
    record = service.register("sentences", model="maker/sentences")
    assert record["encoder"]["revision"] == COMMIT
    in_force = {name: record["encoder"][name] for name in ("pooling", "modules", "prompt")}
    assert in_force == {"pooling": "cls", "modules": ["Dense"], "prompt": PROMPTS["query"]}
    service.assert_equal("sentences", expected)
    downloads = service.downloads("maker/sentences")
    assert downloads >= {"modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors"}
    assert not [path for path in downloads if path.endswith((".bin", ".py", ".onnx"))]
    assert not [path for path in downloads if path.startswith("onnx")]


def test_a_plain_transformers_repository_equals_its_library(service: HubService) -> None:
    expected = service.publish("maker/plain", bert)
    assert service.register("plain", model="maker/plain", revision="main")["status"] == "ready"
    service.assert_equal("plain", expected)


@pytest.mark.parametrize("tower", ["text", "image"])
def test_each_tower_of_a_repository_of_two_towers_equals_its_library(
    service: HubService, tower: str
) -> None:
    kinds = {"text": "transformers", "image": "transformers-vision"}
    make = {"text": text_tower, "image": image_tower}[tower]
    expected = service.publish(f"maker/{tower}-tower", partial(make, TOWERS["clip"]))
    record = service.register(
        f"{tower}-tower", kind=kinds[tower], model=f"maker/{tower}-tower", **expected.encoder
    )
    assert (record["status"], record["encoder"]["pooling"]) == ("ready", "projection")
    service.assert_equal(f"{tower}-tower", expected)


def test_pretrained_weights_of_timm_are_downloaded_from_their_repository(
    service: HubService,
) -> None:
    expected = service.publish(f"timm/{TIMM_MODEL}", pushed_image_model)
    record = service.register("image-timm", kind="timm", model=TIMM_MODEL)
    assert (record["status"], record["encoder"]["revision"]) == ("ready", COMMIT)
    service.assert_equal("image-timm", expected)


def test_model_of_timm_that_somebody_pushed_to_the_hub_is_named_as_timm_names_it(
    service: HubService,
) -> None:
    expected = service.publish("maker/pushed", described)
    record = service.register("image-pushed", kind="timm", model="hf-hub:maker/pushed")
    assert (record["status"], record["encoder"]["revision"]) == ("ready", COMMIT)
    assert record["encoder"]["model"] == "hf-hub:maker/pushed"
    assert record["label_names"] == expected.label_names
    service.assert_equal("image-pushed", expected)
    service.publish("maker/no-timm", bert)
    reason = service.failure("image-no-timm", kind="timm", model="hf-hub:maker/no-timm")
    assert "expected a config.json of timm with an architecture" in reason
    encoder = {"kind": "timm", "model": "hf-hub:stranger/pushed"}
    body = {"anchor_set": "image", "encoder": encoder}
    response = service.http.put("/spaces/image-stranger", json=body)
    assert (response.status_code, response.json()["code"]) == (422, "model-not-allowed")


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_is_refused_with_what_gives_access(
    service: HubService, status: int
) -> None:
    model = f"maker/gated-{status}"
    service.publish(model, bert)
    service.hub.repositories[model].gated = status
    reason = service.failure(f"gated-{status}", model=model)
    assert f"{model} cannot be loaded: its publisher restricts access to it (gated)" in reason
    assert "HF_TOKEN" in reason


def test_a_missing_repository_is_named(service: HubService) -> None:
    reason = service.failure("missing", model="maker/missing")
    assert "maker/missing cannot be loaded: the hub has no such model, or it is private" in reason


def test_a_missing_revision_is_named(service: HubService) -> None:
    service.publish("maker/revisions", bert)
    reason = service.failure("revisions", model="maker/revisions", revision="v9")
    assert reason == "maker/revisions at v9 cannot be loaded: the hub has no revision v9 of it"


def test_a_repository_of_pickles_is_refused_with_the_names_of_its_weights(
    service: HubService,
) -> None:
    service.publish("maker/pickled", pickled)
    reason = service.failure("pickled", model="maker/pickled")
    assert "expected weights in .safetensors files, it has pytorch_model.bin" in reason
    assert "pytorch_model.bin" not in service.downloads("maker/pickled")


def test_a_download_that_breaks_off_is_named_and_succeeds_later(service: HubService) -> None:
    expected = service.publish("maker/broken", bert)
    service.hub.repositories["maker/broken"].broken = "model.safetensors"
    reason = service.failure("broken", model="maker/broken")
    assert "maker/broken cannot be loaded: the download failed (" in reason
    service.hub.repositories["maker/broken"].broken = None
    assert service.register("whole", model="maker/broken", normalize=False)["status"] == "ready"
    service.assert_equal("whole", expected)


def test_a_model_that_no_pattern_allows_is_not_requested(service: HubService) -> None:
    service.publish("other/model", bert)
    encoder = {"kind": "transformers", "model": "other/model"}
    response = service.http.put("/spaces/other", json={"anchor_set": "text", "encoder": encoder})
    assert response.status_code == 422
    assert "hub_models allows: maker/*, timm/*" in response.json()["detail"]
    assert service.downloads("other/model") == set()


def test_a_hub_that_is_down_does_not_matter_to_a_model_in_the_cache(service: HubService) -> None:
    expected = service.publish("maker/cached", bert)
    assert service.register("cached", model="maker/cached")["status"] == "ready"
    service.hub.is_down = True
    try:
        record = service.register("cached-again", model="maker/cached", normalize=False)
        assert (record["status"], record["encoder"]["revision"]) == ("ready", COMMIT)
        service.assert_equal("cached-again", expected)
        reason = service.failure("absent", model="maker/absent")
    finally:
        service.hub.is_down = False
    assert "the hub cannot be reached (status 503), and the cache has no copy" in reason
