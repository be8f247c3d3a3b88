"""The choice of a method for each pair, and the paper's table beside the results."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.paper import paper_section
from stitchwork.evaluation.choice_sections import choice_gains, choose
from stitchwork.evaluation.choice_sections import pair_choice as section
from stitchwork.evaluation.experiments.methods import IRP_BEST, draw_anchors
from stitchwork.evaluation.experiments.pair_choice import CANDIDATES, pair_choice
from stitchwork.evaluation.experiments.study import Record, Study
from stitchwork.evaluation.summary import select, values
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from tests.unit.evaluation.experiments.conftest import SETTINGS, digits_embedded

SMALL = replace(SETTINGS, counts=(60,), draws=1, small_counts=())


@pytest.fixture(scope="module")
def scores() -> Record:
    return pair_choice(Study(digits_embedded(), SMALL))


def test_candidates_are_scored_on_excluded_anchors_of_every_pair(scores: Record) -> None:
    assert len(scores["records"]) == 6 * len(CANDIDATES)
    turned = select(scores["records"], source="plain", target="turned", method=DEFAULT_BRIDGE)
    assert 0.6 < values(turned, "centred")[0] < 0.99


def test_scores_depend_on_no_row_but_the_anchors(scores: Record) -> None:
    embedded = digits_embedded()
    anchors = draw_anchors(embedded.train, 60, SMALL.seed, 0)
    others = np.setdiff1d(np.arange(len(embedded.rows["plain"])), anchors)
    rows = {name: of.copy() for name, of in embedded.rows.items()}
    for of in rows.values():
        of[others] = 0
    study = Study(replace(embedded, rows=rows, labels=None, classes=()), SMALL)
    assert pair_choice(study)["records"] == scores["records"]


def record(draw: int, method: str, **measures: float) -> Record:
    return {"k": 9, "draw": draw, "source": "a", "target": "b", "method": method, **measures}


def test_gain_of_a_choice_is_that_of_the_best_score_on_excluded_anchors() -> None:
    scores, results = [], []
    for draw in (0, 1):
        for i, method in enumerate(CANDIDATES):
            scores.append(record(draw, method, centred=-abs(i - 1), ms=-abs(i - draw)))
            results.append(record(draw, method, linear=0.5 + i / 100, ms=0.2 - i / 100))
    by_cosine, by_overlap = choose(scores, "centred"), choose(scores, "ms")
    assert set(by_cosine.values()) == {CANDIDATES[1]}
    assert by_overlap == {(0, "a", "b"): CANDIDATES[0], (1, "a", "b"): CANDIDATES[1]}
    gains, best = choice_gains(results, by_cosine, "linear")
    np.testing.assert_allclose(gains, [0.01, 0.01], atol=1e-12)
    np.testing.assert_allclose(best, [0.05, 0.05], atol=1e-12)
    experiments = {"translation": {"records": results}, "pair-choice": {"records": scores}}
    text = section({"experiments": experiments, "train": 10})
    assert "| 9 | classify | linear | ridge 2 | +0.010 ± 0.000 | +0.050 ± 0.000 |" in text
    assert "| 9 | search | ms | exp 1, ridge 1 | -0.005 ± 0.064 | +0.000 ± 0.000 |" in text
    # With all rows as anchors, the second draw repeats the first.
    text = section({"experiments": experiments, "train": 9})
    assert "| 9 | search | ms | exp 1 | +0.000 | +0.000 |" in text


def test_papers_table_has_our_figures_beside_it() -> None:
    means = {"irp": 0.7, IRP_BEST: 0.75, DEFAULT_BRIDGE: 0.9}
    records = [record(0, name, linear=value) for name, value in means.items()]
    result = {"sizes": [9], "records": records, "native": {"a": {"linear": 1.0}}}
    text = paper_section({"data": {"digits": {"experiments": {"translation": result}}}})
    row = "| MNIST | .88 ± .03 | .97 ± .01 | 0.91 | 0.700 | 0.750 | 0.900 | 1.000 | 0.75 | 0.90 |"
    assert row in text
    assert "| CIFAR-10 | .92 ± .05 | .95 ± .03 | 0.97 |  |  |" in text


def test_papers_similarities_across_languages_have_ours_beside_them() -> None:
    spaces = {"m/eng": {"width": 4}, "e/fra": {"width": 4}, "u/fra": {"width": 6}}
    figures = {"absolute": 0.1, "irp": 0.5, DEFAULT_BRIDGE: 0.8}
    records = [
        {**record(0, method, similarity=value if y == "e/fra" else 0.0), "source": x, "target": y}
        for method, value in figures.items()
        for x, y in (("m/eng", "e/fra"), ("m/eng", "u/fra"), ("e/fra", "u/fra"))
    ]
    result = {"sizes": [9], "records": records, "native": {}}
    data = {"spaces": spaces, "experiments": {"translation": result}}
    text = paper_section({"data": {"fra-eng": data}})
    assert text.endswith("Here, on fra-eng with 9 anchors: absolute 0.100, irp 0.250, exp 0.400.")
