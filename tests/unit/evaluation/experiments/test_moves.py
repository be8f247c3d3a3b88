"""Moved stores, judged documents, kernel ridge regression, and the cells of a report."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge as SklearnKernelRidge
from sklearn.metrics import ndcg_score

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.cells import Cell, cells, cells_section, compare_with_best, half_width
from stitchwork.evaluation.experiments.measures import store_neighbours, store_overlaps
from stitchwork.evaluation.experiments.methods import (
    KERNEL_RIDGE,
    KERNEL_RIDGE_WHITENED,
    DrawnSpace,
    method_translator,
)
from stitchwork.evaluation.experiments.paired_baselines import (
    KERNEL_PENALTIES,
    SHARPNESSES,
    kernel_ridge_gcv,
    kernel_spectra,
)
from stitchwork.evaluation.experiments.relevance import UNTUNED, ndcg10, relevance
from stitchwork.evaluation.experiments.study import Record, Study
from stitchwork.evaluation.summary import select, values
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from stitchwork.geometry.frame import normalise
from tests.unit.evaluation.experiments.conftest import SETTINGS, digits_embedded


def random_rows(n: int, d: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def nearest_ten(query: Floats, rows: Floats, own: int) -> set[int]:
    cosines = rows @ query / np.linalg.norm(rows, axis=1)
    return set([int(i) for i in np.argsort(-cosines) if i != own][:10])


def test_store_overlaps_equal_their_definition_row_by_row() -> None:
    x, y = random_rows(40, 6, 0), random_rows(40, 5, 1)
    translated = y + 0.8 * random_rows(40, 5, 2)
    result = store_overlaps(translated, y, store_neighbours(x), store_neighbours(y))
    expected = {"mq": 0.0, "ms": 0.0, "mqx": 0.0}
    for i in range(40):
        old, new = nearest_ten(x[i], x, i), nearest_ten(y[i], y, i)
        queried = nearest_ten(translated[i], y, i)
        expected["mq"] += len(queried & new) / 400
        expected["mqx"] += len(queried & old) / 400
        expected["ms"] += len(nearest_ten(y[i], translated, i) & new) / 400
    assert result._asdict() == pytest.approx(expected)
    assert 0.2 < result.mq < 1
    assert result.mqx < result.mq


def test_store_overlap_of_a_perfect_translation_is_one() -> None:
    y = random_rows(30, 5, 1)
    own = store_neighbours(y)
    assert store_overlaps(3 * y, y, own, own) == (1.0, 1.0, 1.0)


def test_ndcg_equals_scikit_learn_and_leaves_out_queries_without_gain() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 50)).astype(np.float32)
    gains = rng.integers(0, 5, size=(6, 50)).astype(np.float32)
    expected = [ndcg_score(gains[[i]], scores[[i]], k=10) for i in range(6)]
    np.testing.assert_allclose(ndcg10(scores, gains), expected, atol=1e-9)
    gains[2] = 0
    np.testing.assert_allclose(ndcg10(scores, gains), np.delete(expected, 2), atol=1e-9)


def judged_study() -> Study:
    """Digits as documents and queries: a document of the query's digit is of use."""
    embedded = digits_embedded()
    assert embedded.labels is not None
    same = embedded.labels[embedded.test][:, None] == embedded.labels[embedded.train][None, :]
    judgements = same.astype(np.float32)
    return Study(replace(embedded, labels=None, classes=(), judgements=judgements), SETTINGS)


@pytest.fixture(scope="module")
def moved() -> Record:
    return relevance(judged_study())


def test_moved_stores_of_judged_documents_are_measured_for_every_pair(moved: Record) -> None:
    assert moved["documents"] == 200
    assert moved["sizes"] == [60, 200]
    keys = {(r["k"], r["draw"], r["source"], r["target"], r["method"]) for r in moved["records"]}
    assert len(keys) == len(moved["records"]) == 2 * 2 * 6 * len(UNTUNED)
    at = select(moved["records"], k=200, method=DEFAULT_BRIDGE)
    assert np.mean(values(at, "store_share")) > 0.9
    assert np.mean(values(select(moved["records"], k=200, method="absolute"), "store_share")) < 0.8
    native = {(r["draw"], r["space"]): r["ndcg10"] for r in moved["native"]}
    for record in at:
        new = native[record["draw"], record["target"]]
        assert record["store_share"] == pytest.approx(record["store_ndcg10"] / new, abs=1e-4)
        new = native[record["draw"], record["source"]]
        assert record["query_share"] == pytest.approx(record["query_ndcg10"] / new, abs=1e-4)


def test_peer_that_only_compares_rows_has_no_moved_store() -> None:
    def cosines(ax: Floats, ay: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        return x @ ax.T, y @ ay.T

    def absolute(ax: Floats, ay: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        rows = np.zeros((len(x), ay.shape[1]), np.float32)
        width = min(x.shape[1], ay.shape[1])
        rows[:, :width] = x[:, :width]
        return rows, y

    study = judged_study()
    settings = replace(SETTINGS, counts=(60,), draws=1)
    peers = {"cosines": cosines, "cut": absolute}
    records = relevance(Study(study.embedded, settings), peers=peers)["records"]
    assert select(records, method="cosines") == []
    for cut, own in zip(
        select(records, method="cut"), select(records, method="absolute"), strict=True
    ):
        assert {**cut, "method": "absolute"} == own


def test_data_without_judgements_is_refused(study: Study) -> None:
    with pytest.raises(InvalidInputError, match="small has no judgements"):
        relevance(study)


def test_kernel_ridge_equals_scikit_learn_at_the_penalty_of_minimum_error(study: Study) -> None:
    x, y = (DrawnSpace(study.draw(60, 0)[name].anchors) for name in ("plain", "layer"))
    u, v = (np.asarray(space.frame.unit_anchors) for space in (x, y))
    chosen = kernel_ridge_gcv(kernel_spectra(x.frame), y.frame)
    scores = {}
    for sharpness in SHARPNESSES:
        kernel = np.exp(sharpness * (u @ u.T - 1))
        for penalty in KERNEL_PENALTIES:
            hat = kernel @ np.linalg.inv(kernel + penalty * np.eye(len(u)))
            freedom = 1 - (np.trace(hat) + 1) / len(u)
            error = np.sum((v - hat @ v) ** 2)
            scores[sharpness, penalty] = error / freedom**2 if freedom > 0 else np.inf
    sharpness, penalty = min(scores, key=lambda setting: scores[setting])
    assert chosen.spectrum.sharpness == sharpness
    assert chosen.penalty == pytest.approx(penalty)
    rows = study.evaluation_set.rows["plain"]
    unit, _ = normalise(rows.astype(np.float64) - np.asarray(x.frame.mean))
    model = SklearnKernelRidge(alpha=penalty, kernel="precomputed")
    model.fit(np.exp(sharpness * (u @ u.T - 1)), v)
    expected, _ = normalise(model.predict(np.exp(sharpness * (unit @ u.T - 1))))
    translated = method_translator(KERNEL_RIDGE, x, y)(rows)
    direction, _ = normalise(translated - np.asarray(y.frame.mean))
    np.testing.assert_allclose(direction, expected, atol=1e-3)
    whitened = method_translator(KERNEL_RIDGE_WHITENED, x, y)(rows)
    assert np.abs(whitened - translated).max() > 0.01


def record(draw: int, method: str, value: float, source: str = "a") -> Record:
    key = {"k": 9, "draw": draw, "source": source, "target": "t", "method": method}
    return {**key, "ms": value}


def test_default_is_compared_with_the_best_method_of_all_draws() -> None:
    records = [
        *(record(n, DEFAULT_BRIDGE, value) for n, value in enumerate((0.5, 0.6, 0.7))),
        *(record(n, "close", value) for n, value in enumerate((0.48, 0.59, 0.67))),
        *(record(n, "poor", 0.1) for n in range(3)),
        # Measured once only, so that no difference is paired.
        record(0, "once", 0.99),
    ]
    compared = compare_with_best(records, "ms")
    assert compared is not None
    rival, differences = compared
    assert rival == "close"
    np.testing.assert_allclose(differences, [0.02, 0.01, 0.03], atol=1e-12)
    # Student's quantile of two degrees of freedom is 4.303.
    assert half_width(differences) == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert half_width(differences[:1]) == np.inf
    assert compare_with_best(records, "linear") is None
    assert compare_with_best(records[:3], "ms") is None


@pytest.mark.parametrize(
    ("difference", "half", "verdict"),
    [(0.02, 0.01, "above"), (-0.02, 0.01, "below"), (-0.02, 0.03, "level"), (0.5, np.inf, "level")],
)
def test_verdict_of_a_cell_follows_its_interval(
    difference: float, half: float, verdict: str
) -> None:
    assert Cell("data", 9, "ms", 0.5, "other", 0.5, difference, half).verdict == verdict


def test_section_of_cells_names_those_that_are_lost() -> None:
    lost = [
        record(n, method, value + n / 1000)
        for n in range(3)
        for method, value in ((DEFAULT_BRIDGE, 0.5), ("other", 0.6))
    ]
    experiments = {"translation": {"sizes": [9], "records": lost}}
    results: Record = {"data": {"news": {"train": 10, "experiments": experiments}}}
    assert [cell.verdict for cell in cells(results)] == ["below"]
    text = cells_section(results)
    assert "above the best other method in 0, level in 0 and below in 1" in text
    assert "Below: news, 9 anchors, ms: -0.100 ± 0.000 to other." in text
    assert cells_section({"data": {}}) == ""
    # With all rows as anchors the draws repeat each other, and nothing is known of their spread.
    results["data"]["news"]["train"] = 9
    assert [cell.verdict for cell in cells(results)] == ["level"]
    assert "(one draw)" in cells_section(results)
