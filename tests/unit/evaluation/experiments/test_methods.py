"""What is compared is what the service serves, and the baselines are what they say."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from stitchwork.evaluation.experiments.methods import (
    SERVED,
    Fitted,
    bridge,
    draw,
    method,
    through,
    written,
)
from stitchwork.evaluation.experiments.paired_baselines import LAMBDAS, eigen, procrustes, ridge_gcv
from stitchwork.evaluation.experiments.pruning import Pruner, Setting
from stitchwork.evaluation.experiments.study import Study
from stitchwork.geometry.bridges import FittedSpace, compose
from stitchwork.geometry.frame import relative_representation
from stitchwork.geometry.sampling import prunings
from tests.support.reference_formulas import irp_write_matrix


@pytest.fixture(scope="module")
def fitted(study: Study) -> dict[str, Fitted]:
    return study.anchors(200, 0)


@pytest.mark.parametrize("name", SERVED)
def test_every_bridge_is_the_one_that_is_served(
    study: Study, fitted: dict[str, Fitted], name: str
) -> None:
    x, y = fitted["plain"], fitted["layer"]
    rows = study.bench.rows["plain"]
    served = next(b for b in SERVED if b == name)
    expected = (
        compose(served, FittedSpace(x.seen, x.parameters), FittedSpace(y.seen, y.parameters))
        .apply(rows)
        .rows
    )
    np.testing.assert_allclose(method(name, x, y)(rows), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(bridge(served, x, y)(rows), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("setting", [Setting(0.0, 1), Setting(0.6, 3), Setting(0.9, 8)])
def test_a_sweep_is_what_each_setting_gives(fitted: dict[str, Fitted], setting: Setting) -> None:
    seen = fitted["plain"].seen
    pruned = Pruner(seen).sweep((0.0, 0.6, 0.9), (1, 3, 8), conditions=True)[setting]
    expected = irp_write_matrix(seen, *setting)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(pruned.write / scale, expected / scale, atol=1e-6)
    kept = prunings(seen.unit_anchors, *setting)
    assert pruned.kept == pytest.approx(np.mean([len(at) for at in kept]))
    spectra = [np.linalg.svd(seen.unit_anchors[at], compute_uv=False) for at in kept]
    conditions = [s[0] / s[s > 1e-6 * s[0]][-1] for s in spectra]
    assert pruned.condition == pytest.approx(np.mean(conditions), rel=1e-4)


def test_settings_asked_for_one_by_one_are_those_of_a_sweep(study: Study) -> None:
    settings = [Setting(0.9, 8), Setting(0.6, 1), Setting(0.8, 3)]
    alone = study.anchors(200, 0)["plain"]
    together = Pruner(alone.seen).sweep((0.6, 0.8, 0.9), (1, 3, 8))
    for setting in settings:
        found = alone.irp([setting])[setting]
        np.testing.assert_allclose(found.write, together[setting].write, atol=1e-12)


def test_unfused_irp_is_the_fused_one(study: Study, fitted: dict[str, Fitted]) -> None:
    x, y = fitted["plain"], fitted["turned"]
    rows = study.bench.rows["plain"]
    pruned = y.pruner.sweep([0.8], [8])[Setting(0.8, 8)]
    np.testing.assert_allclose(
        written(relative_representation(rows, x.seen), y, pruned),
        through(x, y, pruned.write)(rows),
        atol=1e-3,
    )


@pytest.mark.parametrize("k", [40, 200])
def test_ridge_of_both_is_the_penalty_of_least_cross_validated_error(study: Study, k: int) -> None:
    """Against scikit-learn at each penalty, with the degrees of freedom written out."""
    x, y = (study.anchors(k, 0)[name].seen for name in ("plain", "layer"))
    u, v = np.asarray(x.unit_anchors), np.asarray(y.unit_anchors)
    scores, models = [], []
    values = np.linalg.svd(u, compute_uv=False)
    for penalty in LAMBDAS * np.sum(u**2) / u.shape[1]:
        model = Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(u, v)
        gain = values**2 / (values**2 + penalty)
        left = 1 - (gain.sum() + 1) / k
        error = np.sum((v - model.predict(u)) ** 2) / k
        scores.append(error / left**2 if left > 0 else np.inf)
        models.append(model.coef_.T)
    expected = models[int(np.argmin(scores))]
    found = ridge_gcv(x, y, eigen(x))
    np.testing.assert_allclose(found.matrix, expected, atol=1e-4)


def test_procrustes_undoes_a_rotation(study: Study, fitted: dict[str, Fitted]) -> None:
    x, y = fitted["turned"], fitted["plain"]
    matrix = procrustes(x.seen, y.seen).matrix.astype(np.float64)
    held = study.bench.measure("turned", "plain", y, method("both: Procrustes", x, y))
    assert held["recall1"] > 0.95
    kept = np.linalg.svd(matrix, compute_uv=False)
    assert np.all((np.abs(kept - 1) < 1e-4) | (kept < 1e-4))


def test_draws_differ_by_number_and_repeat_by_seed(study: Study) -> None:
    train = study.embedded.train
    first = draw(train, 60, 0, 0)
    np.testing.assert_array_equal(first, draw(train, 60, 0, 0))
    assert set(first) != set(draw(train, 60, 0, 1))
    assert len(set(first)) == 60
    assert set(first) <= set(train)
