"""The assessment of stores, and the advice on planted faults."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from stitchwork.geometry.bridges import FittedSpace, compose
from stitchwork.geometry.diagnostics.recall_prediction import RecallPrediction
from stitchwork.geometry.frame import Frame
from stitchwork.migration.advice import Advice, StoreFacts, advise, advise_small
from stitchwork.migration.assessment import (
    AnchorCurvePoint,
    Assessment,
    EmbeddedPairs,
    PairTranslations,
    assess,
)
from stitchwork.migration.assessment_report import write_report

Floats = NDArray[np.float32]
SAMPLE: Final = 400
ANCHORS: Final = 200
ROWS: Final = 1000
LATENT: Final = 8
FACTS: Final = StoreFacts(ROWS, SAMPLE, "old", "new", ANCHORS, 0.0, 10_000.0, 50.0)


class Models:
    """Three models of one width, of texts around the topics of two domains."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self._layers = {
            name: self.rng.normal(size=(2 * LATENT, 48)) / LATENT**0.5
            for name in ("old", "new", "third")
        }
        self._mix = {name: self.rng.normal(size=(48, 48)) / 7 for name in self._layers}

    def texts(self, count: int, domain: int = 0) -> Any:
        """(count, 16) what texts are about: in the first 8 numbers, or in the others."""
        topics = np.random.default_rng(domain).normal(size=(30, LATENT))
        points = topics[self.rng.integers(30, size=count)]
        points = points + 0.8 * self.rng.normal(size=points.shape)
        empty = 0.2 * self.rng.normal(size=points.shape)
        return np.hstack([points, empty] if domain == 0 else [empty, points])

    def embed(self, name: str, texts: Any) -> Floats:
        hidden = np.tanh(texts @ self._layers[name] / 2)
        noise = 0.02 * self.rng.normal(size=hidden.shape)
        return np.asarray(hidden @ self._mix[name] + noise, np.float32)


def _assess(models: Models, old: Floats, texts: Any, anchors: Any) -> Assessment:
    new = models.embed("new", texts)
    source, target = (
        FittedSpace(Frame.from_anchors(models.embed(name, anchors))) for name in ("old", "new")
    )
    forward, backward = compose("exp", source, target), compose("exp", target, source)
    pairs = EmbeddedPairs(old, new, np.zeros(len(old), np.bool_))
    own = np.arange(len(old))
    translations = PairTranslations(forward.apply(old).rows, new, backward.apply(new).rows, own)
    return assess(pairs, translations, ROWS, "exp")


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture(scope="module")
def sound(models: Models) -> Assessment:
    """Of a store of the model that it is said to be of, with anchors of its domain."""
    texts = models.texts(SAMPLE)
    return _assess(models, models.embed("old", texts), texts, models.texts(ANCHORS))


def test_sound_store_is_to_be_translated(sound: Assessment) -> None:
    assert sound.foreign_share < 0.02
    assert sound.similarities.mean() > 0.8
    assert min(sound.queries.recall, sound.store.recall) > 0.5
    advice = advise(sound, FACTS)
    assert advice.action == "translate"
    assert "takes about 20 seconds" in advice.reasons[0]


def test_curve_of_anchors_from_the_store_rises(sound: Assessment) -> None:
    assert [point.anchors for point in sound.curve] == [50, 100, 200]
    assert sound.curve[0].store < sound.curve[-1].store - 0.02
    # As many anchors of the same domain are as good.
    assert sound.curve[-1].store == pytest.approx(sound.store.recall, abs=0.15)


def test_store_of_another_model_is_not_to_be_translated(models: Models) -> None:
    texts = models.texts(SAMPLE)
    result = _assess(models, models.embed("third", texts), texts, models.texts(ANCHORS))
    assert result.foreign_share > 0.8
    advice = advise(result, FACTS)
    assert advice.action == "check-space"
    # Its rows do belong to their texts.
    assert "The store is of another model" in advice.reasons[0]


def test_store_with_the_texts_of_other_rows_is_not_to_be_translated(models: Models) -> None:
    old = models.embed("old", models.texts(SAMPLE))
    result = _assess(models, old, models.texts(SAMPLE), models.texts(ANCHORS))
    advice = advise(result, FACTS)
    assert advice.action == "check-space"
    assert "the same ids" in advice.reasons[0]


def test_store_half_of_another_model_is_to_be_separated(models: Models) -> None:
    texts = models.texts(SAMPLE)
    old = models.embed("old", texts)
    old[::2] = models.embed("third", texts[::2])
    result = _assess(models, old, texts, models.texts(ANCHORS))
    assert result.foreign_share == pytest.approx(0.5, abs=0.15)
    advice = advise(result, FACTS)
    assert advice.action == "separate-rows"
    assert "not of the space old" in advice.reasons[0]


def test_anchors_of_another_domain_are_to_be_replaced(models: Models) -> None:
    texts = models.texts(SAMPLE)
    result = _assess(models, models.embed("old", texts), texts, models.texts(ANCHORS, domain=1))
    advice = advise(result, FACTS)
    assert advice.action == "choose-anchors"
    assert "other anchors" in advice.reasons[0]
    assert "not like the rows of this store" in advice.reasons[0]


def _prediction(recall: float) -> RecallPrediction:
    return RecallPrediction(recall, recall - 0.02, recall + 0.02, recall + 0.1, SAMPLE, ROWS)


def _result(store: float, queries: float, *curve: tuple[int, float]) -> Assessment:
    points = tuple(AnchorCurvePoint(count, recall, recall) for count, recall in curve)
    similarities = np.ones(SAMPLE, np.float32)
    return Assessment(_prediction(queries), _prediction(store), similarities, 0.0, points)


@pytest.mark.parametrize(
    ("assessment", "facts", "action", "sentence"),
    [
        (_result(0.4, 0.3, (200, 0.42)), FACTS, "re-embed", "takes about 20 seconds"),
        (_result(0.3, 0.3, (400, 0.4)), FACTS, "re-embed", "Re-embed instead"),
        (_result(0.6, 0.5, (200, 0.6), (400, 0.7)), FACTS, "choose-anchors", "more anchors"),
        (
            _result(0.7, 0.6, (200, 0.7)),
            replace(FACTS, uncovered_share=0.03),
            "translate-then-re-embed",
            "about 30 rows first",
        ),
        (_result(0.7, 0.6, (200, 0.7)), FACTS, "translate", "0.70 (0.68 to 0.72)"),
        (
            _result(0.7, 0.6),
            replace(FACTS, is_moved=True),
            "translate",
            "the store that was written has",
        ),
        (_result(0.6, 0.7), FACTS, "translate", "embedding everything anew finds"),
    ],
)
def test_advice_follows_from_recall_coverage_and_the_curve(
    assessment: Assessment, facts: StoreFacts, action: str, sentence: str
) -> None:
    advice = advise(assessment, facts)
    assert advice.action == action
    assert sentence in advice.reasons[0]


MOVED: Final = replace(FACTS, is_moved=True)
FOREIGN: Final = replace(_result(0.2, 0.2), foreign_share=0.9)
MIXED: Final = replace(_result(0.6, 0.6), foreign_share=0.3)


@pytest.mark.parametrize(
    ("assessment", "facts", "beginning"),
    [
        (_result(0.7, 0.6), MOVED, "Use the store that was written"),
        (_result(0.7, 0.6), replace(MOVED, uncovered_share=0.03), "Re-embed about 30 rows first"),
        (_result(0.4, 0.3), MOVED, "Re-embed instead: a recall@10 of 0.40 is all that the store"),
        (_result(0.6, 0.5, (400, 0.7)), MOVED, "Register more anchors and move again"),
        (FOREIGN, MOVED, "Do not use the store that was written"),
        (MIXED, MOVED, "Separate the rows and move again"),
    ],
)
def test_advice_on_a_moved_store_does_not_say_to_translate_it(
    assessment: Assessment, facts: StoreFacts, beginning: str
) -> None:
    assert advise(assessment, facts).reasons[0].startswith(beginning)


def test_fewer_anchors_than_the_present_ones_are_not_recommended() -> None:
    result = _result(0.73, 0.7, (75, 0.5), (150, 0.59))
    facts = replace(FACTS, anchors=500, rows=10_000)
    remark = advise(result, facts).reasons[-1]
    assert "150 rows of the store, are fewer anchors than the present 500" in remark
    assert "a sample of 2,000 rows" in remark
    assert "another one would bring less" not in remark
    assert "another one would bring less" in advise(result, replace(FACTS, anchors=100)).reasons[-1]


@pytest.mark.parametrize(("rows", "sentence"), [(401, "a sample of 401 rows"), (400, "no more")])
def test_larger_sample_than_the_store_is_not_recommended(rows: int, sentence: str) -> None:
    result = _result(0.73, 0.7, (75, 0.5), (150, 0.59))
    remark = advise(result, replace(FACTS, anchors=500, rows=rows)).reasons[-1]
    assert sentence in remark
    assert ("--sample" in remark) == (rows > SAMPLE)


def test_advice_on_a_whole_store_counts_its_rows_and_says_that_recall_is_measured() -> None:
    facts = replace(FACTS, rows=SAMPLE, uncovered_share=1 / SAMPLE * 2)
    curve = (100, 0.6), (200, 0.7)
    advice = advise(_result(0.7, 0.6, *curve), facts)
    assert advice.reasons[0].startswith("Translate now, and re-embed 2 rows first")
    assert "measured on it, and not predicted" in " ".join(advice.reasons)
    assert "another one would bring less" not in " ".join(advice.reasons)
    assert "not predicted" not in " ".join(advise(_result(0.7, 0.6, *curve), FACTS).reasons)


@pytest.mark.parametrize(
    ("rows", "sentence"), [(1, "has 1 row, and"), (99, "about 2 seconds and is better")]
)
def test_store_of_fewer_rows_than_recall_needs_is_to_be_embedded_anew(
    rows: int, sentence: str
) -> None:
    advice = advise_small(replace(FACTS, rows=rows, sample=rows))
    assert advice.action == "re-embed"
    assert sentence in advice.reasons[0]


def test_better_queries_and_uncovered_rows_are_remarks() -> None:
    facts = replace(FACTS, uncovered_share=0.7)
    remarks = " ".join(advise(_result(0.6, 0.7), facts).reasons[1:])
    assert "nothing needs to be moved" in remarks
    assert "70% of the rows are not covered" in remarks


def test_embedding_anew_is_recommended_where_it_takes_minutes() -> None:
    sentence = "better than any translation"
    assert sentence in advise(_result(0.7, 0.6), FACTS).reasons[1]
    large = replace(FACTS, rows=10_000_000)
    assert sentence not in " ".join(advise(_result(0.7, 0.6), large).reasons)


def test_report_has_figures_plots_and_escaped_names(sound: Assessment, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    advice = Advice("translate", ("Translate <now>.",))
    write_report(path, {"store": "a<b.parquet", "rows": ROWS}, sound, advice, FACTS)
    text = path.read_text()
    assert text.count("<svg") == 3
    assert "a&lt;b.parquet" in text
    assert "Translate &lt;now&gt;." in text
    assert f"{sound.store.recall:.3f}" in text
    write_report(path, {"store": "rows.npy"}, None, None, FACTS)
    assert "<svg" not in path.read_text()
