"""Laws of the experiments' results on digits in three small spaces."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import orjson
import pytest

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.experiments import modalities as modalities_module
from stitchwork.evaluation.experiments.confidence import confidence
from stitchwork.evaluation.experiments.experiment_settings import ExperimentSettings
from stitchwork.evaluation.experiments.inversion import UNPRUNED_IRP, inversion
from stitchwork.evaluation.experiments.methods import (
    ABSOLUTE,
    METHODS,
    DrawnSpace,
    draw_anchors,
    irp_translator,
)
from stitchwork.evaluation.experiments.norms import norms
from stitchwork.evaluation.experiments.prediction import prediction
from stitchwork.evaluation.experiments.scale import ACTIVATIONS, ALPHAS, SmallMlp, scale
from stitchwork.evaluation.experiments.sensitivity import sensitivity
from stitchwork.evaluation.experiments.study import Record, Study
from stitchwork.evaluation.experiments.translation import translation
from stitchwork.evaluation.summary import select, values
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from tests.unit.evaluation.experiments.conftest import SETTINGS, digits_embedded


@pytest.fixture(scope="session")
def translated(study: Study) -> Record:
    return translation(study)


@pytest.fixture(scope="session")
def sweep(study: Study) -> Record:
    return sensitivity(study)


def mean(records: Sequence[Record], name: str) -> float:
    return float(np.mean(values(records, name)))


def test_translation_measures_every_pair_method_size_and_draw(translated: Record) -> None:
    cells = {
        (r["k"], r["draw"], r["source"], r["target"], r["method"]) for r in translated["records"]
    }
    sized = [(k, n) for k in (60, 200) for n in (0, 1)] + [(30, 0)]
    assert len(translated["records"]) == len(cells) == len(sized) * 6 * len(METHODS)
    assert {(k, n) for k, n, *_ in cells} == set(sized)


def test_default_bridge_stitches_and_absolute_does_not(translated: Record) -> None:
    at = select(translated["records"], k=200)
    native = np.mean([selected["linear"] for selected in translated["native"].values()])
    assert mean(select(at, method=DEFAULT_BRIDGE), "linear") > 0.95 * native
    assert mean(select(at, method=ABSOLUTE), "linear") < 0.5
    assert mean(select(at, method=DEFAULT_BRIDGE), "recall1") > mean(
        select(at, method="irp"), "recall1"
    )


def test_rotated_space_is_retrieved(translated: Record) -> None:
    at = select(translated["records"], k=200, source="turned", target="plain", method="ridge")
    assert min(values(at, "recall10")) > 0.95
    assert min(values(at, "centred")) > 0.9


def test_irp_settings_are_chosen_without_test_rows(study: Study) -> None:
    """With test rows of noise the choice is the same."""
    rng = np.random.default_rng(0)
    rows = {name: selected.copy() for name, selected in study.embedded.rows.items()}
    for selected in rows.values():
        selected[study.embedded.test] = rng.normal(size=selected[study.embedded.test].shape)
    other = Study(replace(study.embedded, rows=rows), SETTINGS)
    assert other.choose_irp_settings(60) == study.choose_irp_settings(60)
    assert (
        other.validation_set[0].native_accuracies() == study.validation_set[0].native_accuracies()
    )


def test_chosen_irp_setting_is_the_best_on_validation_rows(study: Study) -> None:
    """Against every setting composed and applied, on the same anchors."""
    on, rest = study.validation_set
    at = draw_anchors(rest, 200, SETTINGS.seed, SETTINGS.draws)
    x, y = (DrawnSpace(study.embedded.rows[name][at]) for name in ("plain", "layer"))
    scores = {
        setting: on.measure("plain", "layer", y, irp_translator(x, y, pruned.write))["linear"]
        for setting, pruned in y.pruner.sweep(SETTINGS.deltas, SETTINGS.omegas).items()
    }
    chosen = study.choose_irp_settings(200)["plain", "layer"]
    assert scores[chosen] == max(scores.values())
    assert min(scores.values()) < max(scores.values())


def test_results_repeat_and_are_json(study: Study, translated: Record) -> None:
    again = translation(Study(digits_embedded(), SETTINGS))
    assert orjson.dumps(again) == orjson.dumps(translated)
    assert orjson.loads(orjson.dumps(translated)) == translated


def test_translation_without_labels_measures_retrieval_only(study: Study) -> None:
    embedded = replace(study.embedded, labels=None, classes=())
    without_labels = replace(SETTINGS, counts=(60,), draws=1, small_counts=())
    result = translation(Study(embedded, without_labels))
    assert result["native"] == {}
    assert not any("linear" in record for record in result["records"])
    assert max(record["recall1"] for record in result["records"]) > 0.3


def test_translating_peers_have_accuracy_and_comparing_peers_only_retrieval(
    study: Study,
) -> None:
    def echo(ax: Floats, ay: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """A perfect translation."""
        return y.copy(), y

    def cosines(ax: Floats, ay: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Plain relative representations."""
        return x @ ax.T, y @ ay.T

    peers = {"echo": echo, "cosines": cosines}
    result = translation(
        Study(study.embedded, replace(SETTINGS, counts=(60,), small_counts=())), peers=peers
    )
    for record in select(result["records"], method="echo"):
        assert record["recall1"] == 1
        assert record["linear"] == pytest.approx(
            result["native"][record["target"]]["linear"], abs=1e-6
        )
    assert {record["draw"] for record in select(result["records"], method="echo")} == {0, 1}
    compared = select(result["records"], method="cosines")
    assert compared
    assert all("linear" not in record for record in compared)


def test_intra_space_inversion_without_pruning_is_exact(study: Study) -> None:
    result = inversion(study)
    own = np.diagonal(np.array(result["centred"][UNPRUNED_IRP]))
    np.testing.assert_allclose(own, 1.0, atol=2e-2)
    assert np.diagonal(np.array(result["centred"]["irp"])).max() < 1
    np.testing.assert_allclose(np.diagonal(np.array(result["agreement"])), 1.0)
    plain, turned = result["spaces"].index("plain"), result["spaces"].index("turned")
    assert result["agreement"][plain][turned] > 0.9


def test_larger_delta_means_fewer_anchors_and_lower_condition(sweep: Record) -> None:
    for target in ("plain", "turned", "layer"):
        for omega in SETTINGS.omegas:
            selected = [
                select(sweep["records"], target=target, omega=omega, delta=d)[0]
                for d in SETTINGS.deltas
            ]
            anchors, condition = values(selected, "anchors"), values(selected, "condition")
            assert anchors == sorted(anchors, reverse=True)
            assert condition == sorted(condition, reverse=True)


def test_prediction_is_the_correlation_of_the_records(translated: Record, sweep: Record) -> None:
    result = prediction({"translation": translated, "sensitivity": sweep})
    measures = result["within"]["centred, over δ and ω"]
    selected = select(sweep["records"], source="plain", target="layer")
    expected = np.corrcoef(values(selected, "centred"), values(selected, "linear"))[0, 1]
    assert measures["pairs"]["plain → layer"] == pytest.approx(expected)
    assert -1 <= measures["low"] <= measures["r"] <= measures["high"] <= 1
    across = result["across"][f"centred, {DEFAULT_BRIDGE}, k = 200"]["accuracy"]
    assert across["points"] == 6


def test_confidence_uses_the_predictions_of_the_main_table(study: Study) -> None:
    result = confidence(study)
    native = study.evaluation_set.native_accuracies()
    for space, measures in result["native"].items():
        assert measures["accuracy"] == pytest.approx(native[space]["linear"])
    for record in select(result["records"], bridge=DEFAULT_BRIDGE):
        assert record["head"] > 0.6
        assert 0 <= record["calibrated error"] <= 1
    bins = result["reliability"]["calibrated"]["bins"]
    assert sum(b["size"] for b in bins) == 6 * len(study.embedded.test)


def test_shuffled_pairs_fall_to_chance(cross_modal_study: Study) -> None:
    assert modalities_module.applies(cross_modal_study)
    result = modalities_module.modalities(cross_modal_study)
    assert {frozenset((r["source"], r["target"])) for r in result["records"]} == {
        frozenset(("plain", "layer")),
        frozenset(("turned", "layer")),
    }
    rows = result["conditions"][modalities_module.AS_IS]["rows"]
    for control in (
        modalities_module.AS_IS,
        modalities_module.WHOLE_GROUPS,
        modalities_module.SHUFFLED,
    ):
        own = mean(select(result["records"], control=control, method=DEFAULT_BRIDGE), "recall10")
        chance = result["conditions"][control]["chance"]["recall10"]
        if control == modalities_module.SHUFFLED:
            # Four standard errors of eight pairs and draws, assumed independent.
            assert own < chance + 4 * np.sqrt(chance / (8 * rows))
        else:
            assert own > 5 * chance


def test_groups_of_the_test_part_are_in_no_anchor(cross_modal_study: Study) -> None:
    conditions = dict(modalities_module._control_studies(cross_modal_study))
    control = conditions[modalities_module.WHOLE_GROUPS].embedded
    assert control.groups is not None
    assert not set(control.groups[control.train]) & set(control.groups[control.test])


def test_modalities_do_not_apply_to_one_modality(study: Study) -> None:
    assert not modalities_module.applies(study)


def test_norms_distinguish_normal_skewed_and_constant(
    study: Study,
) -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(550, 30))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = rng.normal(10, 1, size=(550, 1))
    skewed = rng.exponential(size=(550, 1))
    rows = {"unit": directions, "normal": directions * lengths, "skewed": directions * skewed}
    small = {name: selected.astype(np.float32) for name, selected in rows.items()}
    measures = norms(Study(replace(study.embedded, rows=small), SETTINGS))["spaces"]
    assert "p" not in measures["unit"]
    assert measures["normal"]["p"] > 0.01
    assert measures["skewed"]["p"] < 1e-6
    assert sum(measures["normal"]["counts"]) == 400


def test_monotone_networks_are_scale_invariant_and_a_cosine_is_not(study: Study) -> None:
    records = scale(study)["records"]
    assert len(records) == len(study.spaces) * len(ACTIVATIONS) * len(ALPHAS)

    def at(activation: str, alpha: float) -> float:
        return mean(select(records, activation=activation, alpha=alpha), "accuracy")

    for activation in ("relu", "tanh"):
        assert at(activation, 1.0) > 0.85
        assert at(activation, 4.0) > 0.8
    assert at("cosine", 1.0) > 0.7
    assert at("cosine", 10.0) < 0.4


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_network_gradient_equals_finite_differences(activation: str) -> None:
    rng = np.random.default_rng(1)
    rows, labels = rng.normal(size=(5, 4)), np.array([0, 1, 2, 1, 0])
    network = SmallMlp(activation, 4, 3, 0)

    def loss() -> float:
        scores = network.logits(rows)
        peak = scores.max(axis=1, keepdims=True)
        total = np.log(np.exp(scores - peak).sum(axis=1)) + peak[:, 0]
        return float(np.mean(total - scores[np.arange(5), labels]))

    for weights, gradient in zip(network._weights, network._gradients(rows, labels), strict=True):
        at = (0,) * weights.ndim
        step = 1e-6
        weights[at] += step
        above = loss()
        weights[at] -= 2 * step
        below = loss()
        weights[at] += step
        assert gradient[at] == pytest.approx((above - below) / (2 * step), abs=1e-5)


def test_single_space_and_invalid_settings_are_refused(study: Study) -> None:
    alone = replace(study.embedded, rows={"plain": study.embedded.rows["plain"]})
    with pytest.raises(InvalidInputError, match="at least 2 spaces, got 1"):
        Study(alone, SETTINGS)
    for wrong in ({"draws": 0}, {"counts": ()}, {"counts": (1,)}, {"validation_share": 1.0}):
        with pytest.raises(InvalidInputError):
            ExperimentSettings(**wrong)


def test_sizes_are_those_the_data_allows_and_the_largest() -> None:
    settings = ExperimentSettings(counts=(300, 1000, 3000))
    assert settings.sizes(1400) == [300, 1000, 1400]
    assert settings.sizes(200) == [200]
    assert settings.sizes(10_000) == [300, 1000, 3000]
