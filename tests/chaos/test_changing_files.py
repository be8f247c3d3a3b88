"""Model files that change under running workers: noticed, named, and repaired as the error says."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.resources import Floats, TextEncoder
from tests.support import planted_models
from tests.support.cluster import BoundedClient, Cluster, Process, rows_of
from tests.support.planted_models import WEIGHTS, WIDTH
from tests.support.servers import ServerBinary
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.drills, pytest.mark.models]

TEXTS = [f"text {i} of a set about {word}" for i in range(20) for word in ("trains", "tea")]
INPUT = ["a text that is no anchor"]
LIBRARY = """
import torch
class OtherLayerNorm(torch.nn.LayerNorm):
    def forward(self, rows):
        return super().forward(rows).roll(1, dims=-1)
torch.nn.LayerNorm = OtherLayerNorm
"""
"""Another version of a library, in a worker that imports it from its first moment."""


class Model(NamedTuple):
    """A small text model that each test copies.

    Attributes:
        folder: Its folder.
        original: The content of its weights.
        other: Other weights.
        rows: Embeddings of `INPUT` by the original weights, and by the other ones.
    """

    folder: Path
    original: bytes
    other: bytes
    rows: tuple[Floats, Floats]


class Service(NamedTuple):
    """A service with one worker that reads models in a folder."""

    cluster: Cluster
    client: BoundedClient
    worker: Process
    folder: Path


@dataclass
class Stage:
    """A service with one worker and a space `x` of a small text model.

    Attributes:
        folder: The folder of the model.
        original: The content of its weights.
        other: Other weights.
        rows: Embeddings of `INPUT` by the original weights, and by the other ones.
    """

    cluster: Cluster
    client: BoundedClient
    worker: Process
    folder: Path
    original: bytes
    other: bytes
    rows: tuple[Floats, Floats]
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def embed(self, space: str = "x") -> httpx.Response:
        return self.client.send("POST", f"/embed/{space}", {"items": INPUT})

    def put(self, id_: str = "x", **fields: Any) -> httpx.Response:
        body = {"anchor_set": "S", "encoder": self.spec, **fields}
        return self.client.send("PUT", f"/spaces/{id_}", body)

    def register(self, id_: str = "x", path: str = "spaces") -> dict[str, Any]:
        """Register a space, and wait for its record."""
        assert self.put(id_).status_code == 202
        return self.wait(f"/spaces/{id_}")

    def wait(self, path: str) -> dict[str, Any]:
        """The record of what is being registered once a worker is done with it."""
        record: dict[str, Any] = {}

        def is_done() -> bool:
            record.clear()
            record.update(self.client.send("GET", path).json())
            return bool(record.get("pending", record)["status"] != "pending")

        wait_until("the worker is done", is_done, 120)
        return record

    def put_head(self) -> None:
        head = {"space": "x", "weight": np.eye(2, WIDTH).tolist(), "labels": ["a", "b"]}
        assert self.client.send("PUT", "/heads/h", head).is_success

    def assert_embeds(self, which: int, space: str = "x") -> None:
        np.testing.assert_allclose(rows_of(self.embed(space)), self.rows[which], atol=1e-4)

    def assert_refused(self, *parts: str, status: int = 409, code: str = "encoder-mismatch") -> str:
        response = self.embed()
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
        detail = str(response.json()["detail"])
        for part in parts:
            assert part in detail, detail
        return detail

    def assert_unloadable(self, *parts: str) -> None:
        self.assert_refused(*parts, status=503, code="load-failed")


def embed_directly(folder: Path) -> Floats:
    loaded = EncoderCache("cpu", [folder], offline=True, compile_models=False).get(
        TextEncoder(model=str(folder))
    )
    rows: Floats = loaded.batcher.embed(loaded.encoder.prepare(INPUT), 8).numpy()
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = planted_models.save_transformer(tmp_path_factory.mktemp("model") / "original")
    original = (folder / WEIGHTS).read_bytes()
    other = planted_models.other_weights(folder / WEIGHTS)
    copy = copytree(folder, folder.with_name("other"))
    (copy / WEIGHTS).write_bytes(other)
    rows = (embed_directly(folder), embed_directly(copy))
    assert np.abs(rows[0] - rows[1]).max() > 0.1
    return Model(folder, original, other, rows)


@contextmanager
def running(binary: ServerBinary, folder: Path) -> Iterator[Service]:
    models = folder / "models"
    models.mkdir()
    with Cluster(binary, STITCHWORK_MODEL_ROOTS=str(models)) as cluster:
        worker = cluster.start("worker", "env", "-C", str(folder))
        with BoundedClient(cluster.api().url, 120.0) as client:
            wait_until("the worker is alive", client.ready, 120)
            items = {"modality": "text", "items": TEXTS}
            assert client.send("PUT", "/anchor-sets/S", items).is_success
            yield Service(cluster, client, worker, folder)


def stage_of(service: Service, model: Model, name: str) -> Stage:
    """A space of a copy of the model."""
    folder = copytree(model.folder, service.folder / "models" / name)
    spec = {"kind": "transformers", "model": f"./models/{name}"}
    cluster, client, worker, _ = service
    stage = Stage(cluster, client, worker, folder, model.original, model.other, model.rows, spec)
    stage.register()
    stage.assert_embeds(0)
    return stage


@pytest.fixture(scope="module")
def shared_service(
    server_binary: ServerBinary, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with running(server_binary, tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def stage(shared_service: Service, model: Model, tmp_path: Path) -> Iterator[Stage]:
    """A space on a service that tests share."""
    yield stage_of(shared_service, model, tmp_path.name)
    client = shared_service.client
    client.send("DELETE", "/heads/h")
    for id_ in ("x", "other", "sent"):
        client.send("DELETE", f"/spaces/{id_}")
    wait_until(
        "the worker has forgotten them",
        lambda: not client.send("GET", "/health/ready").json().get("refused"),
        120,
    )


@pytest.fixture
def own_stage(server_binary: ServerBinary, model: Model, tmp_path: Path) -> Iterator[Stage]:
    """A space on a service whose worker the test replaces."""
    with running(server_binary, tmp_path) as service:
        yield stage_of(service, model, "bert")


def test_weights_overwritten_in_place_while_serving_are_refused_until_registered_again(
    stage: Stage,
) -> None:
    before = stage.wait("/spaces/x")
    pid = stage.worker.process.pid
    planted_models.overwrite(stage.weights, stage.other)
    stage.assert_refused(
        f"expected files of digest {before['files_digest']}",
        "model.safetensors was changed",
        "register the space again",
    )
    after = stage.register()
    assert (after["status"], "pending" in after) == ("ready", False)
    assert after["version"] != before["version"]
    assert after["files_digest"] != before["files_digest"]
    assert after["declaration"] == before["declaration"]
    stage.assert_embeds(1)
    planted_models.replace(stage.weights, stage.original)
    stage.assert_refused("register the space again")
    assert stage.register()["version"] == before["version"]
    stage.assert_embeds(0)
    assert stage.register()["version"] == before["version"], "nothing has changed"
    assert stage.worker.process.pid == pid
    assert stage.worker.process.poll() is None


def test_restored_files_serve_at_once(stage: Stage) -> None:
    planted_models.replace(stage.weights, stage.other)
    stage.assert_refused("restore the files")
    refused = stage.client.send("GET", "/health/ready").json().get("refused", {})
    assert refused.keys() <= {"x"}
    planted_models.replace(stage.weights, stage.original)
    stage.assert_embeds(0)


def test_weights_cut_short_or_removed_while_serving_neither_end_the_worker_nor_give_rows(
    stage: Stage,
) -> None:
    planted_models.cut_short(stage.weights)
    stage.assert_unloadable("model.safetensors was changed from", "restore them")
    stage.weights.unlink()
    stage.assert_unloadable("model.safetensors was removed", "restore them")
    assert stage.worker.process.poll() is None
    stage.weights.write_bytes(stage.original)
    stage.assert_embeds(0)
    planted_models.cut_short(stage.weights)
    stage.assert_unloadable("write valid ones and register")
    stage.weights.write_bytes(stage.other)
    stage.register()
    stage.assert_embeds(1)
    assert stage.worker.process.poll() is None


def test_a_space_that_is_deleted_and_registered_again_has_the_new_weights(stage: Stage) -> None:
    planted_models.overwrite(stage.weights, stage.other)
    assert stage.client.send("DELETE", "/spaces/x").status_code == 204
    stage.register()
    stage.assert_embeds(1)


def test_new_files_of_a_space_with_a_head_are_registered_as_the_error_says(stage: Stage) -> None:
    before = stage.wait("/spaces/x")
    stage.put_head()
    stitch = {"items": INPUT}
    assert stage.client.send("POST", "/stitch/x/h", stitch).is_success
    planted_models.overwrite(stage.weights, stage.other)
    advice = ("register this encoder as another space", "delete the heads and then register")
    stage.assert_refused(*advice)
    failed = stage.register()
    assert failed["version"] == before["version"], "it still translates"
    assert failed["pending"]["status"] == "failed"
    assert all(part in failed["pending"]["reason"] for part in advice)
    # One way: another space, from which the head is reached.
    other = stage.register("other")
    assert other["version"] != before["version"]
    stage.assert_embeds(1, "other")
    response = stage.client.send("POST", "/stitch/other/h", stitch)
    assert response.status_code == 200, response.text
    # The other way: without the head.
    assert stage.client.send("DELETE", "/heads/h").status_code == 204
    assert "pending" not in stage.register()
    stage.assert_embeds(1)
    stage.put_head()
    assert stage.client.send("POST", "/stitch/x/h", stitch).is_success


def test_anchors_that_were_sent_are_bound_to_the_files_that_reproduce_them(stage: Stage) -> None:
    embedded = stage.client.send("POST", "/embed/x", {"items": TEXTS})
    anchors = np.asarray(embedded.json()["embeddings"])
    assert stage.put("sent", anchors=anchors.tolist()).status_code == 202
    record = stage.wait("/spaces/sent")
    assert record["files_digest"] == stage.wait("/spaces/x")["files_digest"]
    stage.assert_embeds(0, "sent")
    planted_models.overwrite(stage.weights, stage.other)
    refused = stage.embed("sent")
    assert refused.status_code == 409
    assert "with anchors of this encoder" in refused.json()["detail"]
    stage.register()
    embedded = stage.client.send("POST", "/embed/x", {"items": TEXTS})
    again = stage.put("sent", anchors=embedded.json()["embeddings"])
    assert again.status_code == 202, again.text
    assert "pending" not in stage.wait("/spaces/sent")
    stage.assert_embeds(1, "sent")


def test_a_second_worker_with_other_files_refuses_and_names_both_digests(
    own_stage: Stage, tmp_path: Path
) -> None:
    expected = own_stage.wait("/spaces/x")["files_digest"]
    elsewhere = tmp_path / "elsewhere"
    copytree(own_stage.folder, elsewhere / "models" / "bert")
    (elsewhere / "models" / "bert" / WEIGHTS).write_bytes(own_stage.other)
    assert own_stage.worker.stop() == 0
    roots = {"STITCHWORK_MODEL_ROOTS": str(elsewhere / "models")}
    second = own_stage.cluster.start("worker", "env", "-C", str(elsewhere), **roots)
    wait_until("the worker is alive", own_stage.client.ready, 120)
    detail = own_stage.assert_refused(f"expected files of digest {expected}, got ")
    assert expected not in detail.partition(", got ")[2]
    assert second.process.poll() is None
    # Beside a worker with the right files it leaves the space to that one.
    own_stage.cluster.start("worker", "env", "-C", str(own_stage.folder.parents[1]))
    wait_until("the right worker serves", lambda: own_stage.embed().is_success, 120)
    for _ in range(30):
        own_stage.assert_embeds(0)
    assert second.process.poll() is None


def test_a_worker_with_another_library_is_refused_by_the_rows_of_the_anchors(
    own_stage: Stage, tmp_path: Path
) -> None:
    assert own_stage.worker.stop() == 0
    library = tmp_path / "library"
    library.mkdir()
    (library / "sitecustomize.py").write_text(LIBRARY)
    path = os.pathsep.join([str(library), *filter(None, [os.environ.get("PYTHONPATH")])])
    own_stage.cluster.start("worker", "env", "-C", str(tmp_path), f"PYTHONPATH={path}")
    wait_until("the worker is alive", own_stage.client.ready, 120)
    before = own_stage.client.send("GET", "/spaces/x").json()
    own_stage.assert_refused("registered rows, got", "run the library versions")
    after = own_stage.register()
    assert after["files_digest"] == before["files_digest"]
    assert after["version"] != before["version"]
    assert own_stage.embed().status_code == 200
