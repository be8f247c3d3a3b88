"""Models that a worker loads before it announces itself."""

import logging

import pytest

from stitchwork.errors import ErrorCode, JobFailedError
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.registry import Registry
from stitchwork.resources import EncoderSpec, TextEncoder
from stitchwork.worker.preload import preload
from tests.integration.worker.conftest import TEXTS, TableEncoder, embeddings, loaded

SPACES = {"first": "words", "second": "words", "third": "sentences", "fourth": "pictures"}


class Loads:
    """Loads encoders, but none of the model `sentences`."""

    def __init__(self) -> None:
        self.models: list[str] = []

    def __call__(self, spec: EncoderSpec, *, prove: bool = False) -> LoadedEncoder:
        self.models.append(spec.model)
        if spec.model == "sentences":
            raise JobFailedError("sentences cannot be loaded", code=ErrorCode.LOAD_FAILED)
        return loaded(TableEncoder(embeddings(0)))


@pytest.mark.parametrize(
    ("patterns", "models", "events"),
    [
        ((), [], []),
        (("first",), ["words"], []),
        (("words",), ["words"], []),
        (("*",), ["words", "sentences"], ["model not preloaded"]),
        (("th*", "second"), ["words", "sentences"], ["model not preloaded"]),
        (("pictures", "other"), [], ["nothing to preload", "nothing to preload"]),
    ],
)
def test_encoders_of_matching_spaces_are_loaded_once_and_failures_are_logged(
    registry: Registry,
    patterns: tuple[str, ...],
    models: list[str],
    events: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "stitchwork.worker.preload")
    registry.declare_anchor_set("vectors", "text", size=len(TEXTS))
    for id_, model in SPACES.items():
        spec = TextEncoder(model=model)
        registry.declare_space(SpaceDeclaration(id_, "vectors", spec, embeddings(len(id_))))
    load = Loads()
    preload(registry, patterns, lambda encoder: encoder.model != "pictures", load)
    assert sorted(load.models) == sorted(models)
    assert [record.message for record in caplog.records] == events
