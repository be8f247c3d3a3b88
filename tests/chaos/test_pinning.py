"""A model of a hub is pinned to the commit that it was first loaded at."""

from pathlib import Path

import pytest

from tests.integration.models.test_hub import COMMITS, MODEL, keep, move
from tests.support.process_stage import Caller, Engine, Stage
from tests.support.waiting import until

pytestmark = [pytest.mark.drills, pytest.mark.models]


def test_the_record_of_a_space_names_the_commit(engine: Engine, tmp_path: Path) -> None:
    for commit in reversed(COMMITS):
        keep(tmp_path / "hub", commit)
    body = {"anchor_set": "S", "encoder": {"kind": "transformers", "model": MODEL}}
    with Stage(engine, HF_HOME=str(tmp_path)) as stage:
        stage.start("worker")
        with Caller(stage.api().url) as caller:
            items = {"modality": "text", "items": [f"text {i}" for i in range(100)]}
            assert caller.send("PUT", "/anchor-sets/S", items).is_success

            def ready() -> bool:
                told = caller.send("GET", "/spaces/s").json()
                assert told["status"] != "failed", told
                return bool(told["status"] == "ready")

            assert caller.send("PUT", "/spaces/s", body).status_code == 202
            until("the space is ready", ready, 120)
            told = caller.send("GET", "/spaces/s").json()
            assert told["encoder"]["revision"] == COMMITS[0]
            head = {"space": "s", "weight": [[0.1] * 384, [0.2] * 384], "labels": ["a", "b"]}
            assert caller.send("PUT", "/heads/h", head).status_code == 201
            move(tmp_path / "hub", COMMITS[1])
            again = caller.send("PUT", "/spaces/s", body)
            assert (again.status_code, again.json()["version"]) == (200, told["version"])
            assert caller.send("POST", "/stitch/s/h", {"items": ["a text"]}).status_code == 200
