"""Methods against the service's bridges, and baselines against plain formulas."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from stitchwork.evaluation.experiments.methods import (
    TRANSLATING_BRIDGES,
    DrawnSpace,
    bridge_translator,
    draw_anchors,
    irp_rows,
    irp_translator,
    method_translator,
)
from stitchwork.evaluation.experiments.paired_baselines import (
    PENALTIES,
    anchor_svd,
    procrustes,
    ridge_gcv,
)
from stitchwork.evaluation.experiments.pruning import Pruner, PruningSetting
from stitchwork.evaluation.experiments.study import Study
from stitchwork.geometry.bridges import FittedSpace, compose
from stitchwork.geometry.frame import relative_representation
from stitchwork.geometry.sampling import prunings
from tests.support.reference_formulas import irp_write_matrix


@pytest.fixture(scope="module")
def drawn(study: Study) -> dict[str, DrawnSpace]:
    return study.draw(200, 0)


@pytest.mark.parametrize("name", TRANSLATING_BRIDGES)
def test_bridge_translators_equal_the_service(
    study: Study, drawn: dict[str, DrawnSpace], name: str
) -> None:
    x, y = drawn["plain"], drawn["layer"]
    rows = study.evaluation_set.rows["plain"]
    served = next(b for b in TRANSLATING_BRIDGES if b == name)
    expected = (
        compose(served, FittedSpace(x.frame, x.parameters), FittedSpace(y.frame, y.parameters))
        .apply(rows)
        .rows
    )
    np.testing.assert_allclose(method_translator(name, x, y)(rows), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        bridge_translator(served, x, y)(rows), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "setting", [PruningSetting(0.0, 1), PruningSetting(0.6, 3), PruningSetting(0.9, 8)]
)
def test_sweep_equals_each_single_setting(
    drawn: dict[str, DrawnSpace], setting: PruningSetting
) -> None:
    frame = drawn["plain"].frame
    pruned = Pruner(frame).sweep((0.0, 0.6, 0.9), (1, 3, 8), conditions=True)[setting]
    expected = irp_write_matrix(frame, *setting)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(pruned.write / scale, expected / scale, atol=1e-6)
    subspaces = prunings(frame.unit_anchors, *setting)
    assert pruned.anchors == pytest.approx(np.mean([len(at) for at in subspaces]))
    spectra = [np.linalg.svd(frame.unit_anchors[at], compute_uv=False) for at in subspaces]
    conditions = [s[0] / s[s > 1e-6 * s[0]][-1] for s in spectra]
    assert pruned.condition == pytest.approx(np.mean(conditions), rel=1e-4)


def test_irp_inverses_one_by_one_equal_a_sweep(study: Study) -> None:
    settings = [PruningSetting(0.9, 8), PruningSetting(0.6, 1), PruningSetting(0.8, 3)]
    alone = study.draw(200, 0)["plain"]
    together = Pruner(alone.frame).sweep((0.6, 0.8, 0.9), (1, 3, 8))
    for setting in settings:
        pair_map = alone.irp_inverses([setting])[setting]
        np.testing.assert_allclose(pair_map.write, together[setting].write, atol=1e-12)


def test_irp_rows_equal_the_composed_map(study: Study, drawn: dict[str, DrawnSpace]) -> None:
    x, y = drawn["plain"], drawn["turned"]
    rows = study.evaluation_set.rows["plain"]
    pruned = y.pruner.sweep([0.8], [8])[PruningSetting(0.8, 8)]
    np.testing.assert_allclose(
        irp_rows(relative_representation(rows, x.frame), y, pruned),
        irp_translator(x, y, pruned.write)(rows),
        atol=1e-3,
    )


@pytest.mark.parametrize("k", [40, 200])
def test_ridge_gcv_has_the_penalty_of_minimum_error(study: Study, k: int) -> None:
    """Against scikit-learn at each penalty, with explicit degrees of freedom."""
    x, y = (study.draw(k, 0)[name].frame for name in ("plain", "layer"))
    u, v = np.asarray(x.unit_anchors), np.asarray(y.unit_anchors)
    scores, models = [], []
    values = np.linalg.svd(u, compute_uv=False)
    for penalty in PENALTIES * np.sum(u**2) / u.shape[1]:
        model = Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(u, v)
        gain = values**2 / (values**2 + penalty)
        left = 1 - (gain.sum() + 1) / k
        error = np.sum((v - model.predict(u)) ** 2) / k
        scores.append(error / left**2 if left > 0 else np.inf)
        models.append(model.coef_.T)
    expected = models[int(np.argmin(scores))]
    pair_map = ridge_gcv(x, y, anchor_svd(x))
    np.testing.assert_allclose(pair_map.matrix, expected, atol=1e-4)


def test_procrustes_recovers_a_rotation(study: Study, drawn: dict[str, DrawnSpace]) -> None:
    x, y = drawn["turned"], drawn["plain"]
    matrix = procrustes(x.frame, y.frame).matrix.astype(np.float64)
    measures = study.evaluation_set.measure(
        "turned", "plain", y, method_translator("both: Procrustes", x, y)
    )
    assert measures["recall1"] > 0.95
    subspaces = np.linalg.svd(matrix, compute_uv=False)
    assert np.all((np.abs(subspaces - 1) < 1e-4) | (subspaces < 1e-4))


def test_draws_differ_by_number_and_repeat_by_seed(study: Study) -> None:
    train = study.embedded.train
    first = draw_anchors(train, 60, 0, 0)
    np.testing.assert_array_equal(first, draw_anchors(train, 60, 0, 0))
    assert set(first) != set(draw_anchors(train, 60, 0, 1))
    assert len(set(first)) == 60
    assert set(first) <= set(train)
