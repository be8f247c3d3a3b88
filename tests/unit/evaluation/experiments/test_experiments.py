"""Laws that the experiments' results obey on digits seen by small spaces."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import orjson
import pytest

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.experiments import modalities as across_
from stitchwork.evaluation.experiments.confidence import confidence
from stitchwork.evaluation.experiments.experiment_settings import Settings
from stitchwork.evaluation.experiments.inversion import PLAIN, inversion
from stitchwork.evaluation.experiments.methods import ABSOLUTE, METHODS, Fitted, draw, through
from stitchwork.evaluation.experiments.norms import norms
from stitchwork.evaluation.experiments.prediction import prediction
from stitchwork.evaluation.experiments.scale import ACTIVATIONS, ALPHAS, Net, scale
from stitchwork.evaluation.experiments.sensitivity import sensitivity
from stitchwork.evaluation.experiments.study import Record, Study
from stitchwork.evaluation.experiments.translation import translation
from stitchwork.evaluation.summary import values, where
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from tests.unit.evaluation.experiments.conftest import SETTINGS, digits_embedded


@pytest.fixture(scope="session")
def moved(study: Study) -> Record:
    return translation(study)


@pytest.fixture(scope="session")
def swept(study: Study) -> Record:
    return sensitivity(study)


def mean(records: Sequence[Record], name: str) -> float:
    return float(np.mean(values(records, name)))


def test_translation_measures_every_pair_method_size_and_draw(moved: Record) -> None:
    cells = {(r["k"], r["draw"], r["source"], r["target"], r["method"]) for r in moved["records"]}
    sized = [(k, n) for k in (60, 200) for n in (0, 1)] + [(30, 0)]
    assert len(moved["records"]) == len(cells) == len(sized) * 6 * len(METHODS)
    assert {(k, n) for k, n, *_ in cells} == set(sized)


def test_the_default_stitches_and_the_absolute_row_does_not(moved: Record) -> None:
    at = where(moved["records"], k=200)
    native = np.mean([of["linear"] for of in moved["native"].values()])
    assert mean(where(at, method=DEFAULT_BRIDGE), "linear") > 0.95 * native
    assert mean(where(at, method=ABSOLUTE), "linear") < 0.5
    assert mean(where(at, method=DEFAULT_BRIDGE), "recall1") > mean(
        where(at, method="irp"), "recall1"
    )


def test_a_turned_space_is_found_again(moved: Record) -> None:
    at = where(moved["records"], k=200, source="turned", target="plain", method="ridge")
    assert min(values(at, "recall10")) > 0.95
    assert min(values(at, "centred")) > 0.9


def test_the_settings_of_irp_are_chosen_without_the_held_out_rows(study: Study) -> None:
    """Held-out rows of nothing but noise, and the same choice."""
    rng = np.random.default_rng(0)
    rows = {name: of.copy() for name, of in study.embedded.rows.items()}
    for of in rows.values():
        of[study.embedded.test] = rng.normal(size=of[study.embedded.test].shape)
    other = Study(replace(study.embedded, rows=rows), SETTINGS)
    assert other.choose(60) == study.choose(60)
    assert other.validation[0].native() == study.validation[0].native()


def test_the_chosen_setting_is_the_best_on_the_validation_rows(study: Study) -> None:
    """Against every setting fused and applied, on the same anchors."""
    on, rest = study.validation
    at = draw(rest, 200, SETTINGS.seed, SETTINGS.draws)
    x, y = (Fitted(study.embedded.rows[name][at]) for name in ("plain", "layer"))
    scores = {
        setting: on.measure("plain", "layer", y, through(x, y, pruned.write))["linear"]
        for setting, pruned in y.pruner.sweep(SETTINGS.deltas, SETTINGS.omegas).items()
    }
    chosen = study.choose(200)["plain", "layer"]
    assert scores[chosen] == max(scores.values())
    assert min(scores.values()) < max(scores.values())


def test_results_repeat_and_are_json(study: Study, moved: Record) -> None:
    again = translation(Study(digits_embedded(), SETTINGS))
    assert orjson.dumps(again) == orjson.dumps(moved)
    assert orjson.loads(orjson.dumps(moved)) == moved


def test_without_labels_there_is_retrieval_and_no_accuracy(study: Study) -> None:
    embedded = replace(study.embedded, labels=None, classes=())
    found = translation(Study(embedded, replace(SETTINGS, counts=(60,), draws=1, few=())))
    assert found["native"] == {}
    assert not any("linear" in record for record in found["records"])
    assert max(record["recall1"] for record in found["records"]) > 0.3


def test_peers_that_translate_are_scored_and_peers_that_compare_only_retrieve(
    study: Study,
) -> None:
    def echo(ax: Floats, ay: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Knows the answer."""
        return y.copy(), y

    def cosines(ax: Floats, ay: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Plain relative representations."""
        return x @ ax.T, y @ ay.T

    peers = {"echo": echo, "cosines": cosines}
    found = translation(Study(study.embedded, replace(SETTINGS, few=())), peers=peers)
    for one in where(found["records"], method="echo"):
        assert one["recall1"] == 1
        assert one["linear"] == pytest.approx(found["native"][one["target"]]["linear"], abs=1e-6)
        assert one["draw"] == 0
    compared = where(found["records"], method="cosines")
    assert compared
    assert all("linear" not in one for one in compared)


def test_intra_space_inversion_is_exact_where_it_must_be(study: Study) -> None:
    found = inversion(study)
    own = np.diagonal(np.array(found["centred"][PLAIN]))
    np.testing.assert_allclose(own, 1.0, atol=2e-2)
    assert np.diagonal(np.array(found["centred"]["irp"])).max() < 1
    np.testing.assert_allclose(np.diagonal(np.array(found["agreement"])), 1.0)
    plain, turned = found["spaces"].index("plain"), found["spaces"].index("turned")
    assert found["agreement"][plain][turned] > 0.9


def test_a_larger_delta_keeps_fewer_anchors_in_a_better_condition(swept: Record) -> None:
    for target in ("plain", "turned", "layer"):
        for omega in SETTINGS.omegas:
            of = [
                where(swept["records"], target=target, omega=omega, delta=d)[0]
                for d in SETTINGS.deltas
            ]
            kept, condition = values(of, "kept"), values(of, "condition")
            assert kept == sorted(kept, reverse=True)
            assert condition == sorted(condition, reverse=True)


def test_prediction_is_the_correlation_of_what_was_measured(moved: Record, swept: Record) -> None:
    found = prediction({"translation": moved, "sensitivity": swept})
    told = found["within"]["centred, over δ and ω"]
    of = where(swept["records"], source="plain", target="layer")
    expected = np.corrcoef(values(of, "centred"), values(of, "linear"))[0, 1]
    assert told["pairs"]["plain → layer"] == pytest.approx(expected)
    assert -1 <= told["low"] <= told["r"] <= told["high"] <= 1
    across = found["across"][f"centred, {DEFAULT_BRIDGE}, k = 200"]["accuracy"]
    assert across["points"] == 6


def test_confidence_is_of_the_same_predictions_as_the_main_table(study: Study) -> None:
    found = confidence(study)
    native = study.bench.native()
    for space, told in found["native"].items():
        assert told["accuracy"] == pytest.approx(native[space]["linear"])
    for one in where(found["records"], bridge=DEFAULT_BRIDGE):
        assert one["head"] > 0.6
        assert 0 <= one["calibrated error"] <= 1
    bins = found["reliability"]["calibrated"]["bins"]
    assert sum(b["size"] for b in bins) == 6 * len(study.embedded.test)


def test_shuffled_pairs_fall_to_chance(across: Study) -> None:
    assert across_.applies(across)
    found = across_.modalities(across)
    assert {frozenset((r["source"], r["target"])) for r in found["records"]} == {
        frozenset(("plain", "layer")),
        frozenset(("turned", "layer")),
    }
    rows = found["conditions"][across_.AS_IS]["rows"]
    for control in (across_.AS_IS, across_.NO_GROUP, across_.SHUFFLED):
        own = mean(where(found["records"], control=control, method=DEFAULT_BRIDGE), "recall10")
        chance = found["conditions"][control]["chance"]["recall10"]
        if control == across_.SHUFFLED:
            # Four standard errors of eight pairs and draws, taken as independent.
            assert own < chance + 4 * np.sqrt(chance / (8 * rows))
        else:
            assert own > 5 * chance


def test_held_out_groups_are_in_no_anchor(across: Study) -> None:
    conditions = dict(across_._conditions(across))
    under = conditions[across_.NO_GROUP].embedded
    assert under.groups is not None
    assert not set(under.groups[under.train]) & set(under.groups[under.test])


def test_one_modality_has_nothing_to_cross(study: Study) -> None:
    assert not across_.applies(study)


def test_lengths_of_normal_numbers_pass_for_normal_and_unit_rows_for_constant(
    study: Study,
) -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(550, 30))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = rng.normal(10, 1, size=(550, 1))
    skewed = rng.exponential(size=(550, 1))
    rows = {"unit": directions, "normal": directions * lengths, "skewed": directions * skewed}
    small = {name: of.astype(np.float32) for name, of in rows.items()}
    told = norms(Study(replace(study.embedded, rows=small), SETTINGS))["spaces"]
    assert "p" not in told["unit"]
    assert told["normal"]["p"] > 0.01
    assert told["skewed"]["p"] < 1e-6
    assert sum(told["normal"]["counts"]) == 400


def test_monotone_nets_forgive_scale_and_a_cosine_does_not(study: Study) -> None:
    records = scale(study)["records"]
    assert len(records) == len(study.spaces) * len(ACTIVATIONS) * len(ALPHAS)

    def at(activation: str, alpha: float) -> float:
        return mean(where(records, activation=activation, alpha=alpha), "accuracy")

    for activation in ("relu", "tanh"):
        assert at(activation, 1.0) > 0.85
        assert at(activation, 4.0) > 0.8
    assert at("cosine", 1.0) > 0.7
    assert at("cosine", 10.0) < 0.4


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_net_descends_the_gradient_that_differences_give(activation: str) -> None:
    rng = np.random.default_rng(1)
    rows, labels = rng.normal(size=(5, 4)), np.array([0, 1, 2, 1, 0])
    net = Net(activation, 4, 3, 0)

    def loss() -> float:
        scores = net.scores(rows)
        most = scores.max(axis=1, keepdims=True)
        total = np.log(np.exp(scores - most).sum(axis=1)) + most[:, 0]
        return float(np.mean(total - scores[np.arange(5), labels]))

    for weights, gradient in zip(net._weights, net._gradients(rows, labels), strict=True):
        at = (0,) * weights.ndim
        step = 1e-6
        weights[at] += step
        above = loss()
        weights[at] -= 2 * step
        below = loss()
        weights[at] += step
        assert gradient[at] == pytest.approx((above - below) / (2 * step), abs=1e-5)


def test_what_cannot_be_studied_is_refused(study: Study) -> None:
    alone = replace(study.embedded, rows={"plain": study.embedded.rows["plain"]})
    with pytest.raises(InvalidInputError, match="at least 2 spaces, got 1"):
        Study(alone, SETTINGS)
    for wrong in ({"draws": 0}, {"counts": ()}, {"counts": (1,)}, {"validation": 1.0}):
        with pytest.raises(InvalidInputError):
            Settings(**wrong)


def test_sizes_are_those_the_data_allows_and_its_all() -> None:
    asked = Settings(counts=(300, 1000, 3000))
    assert asked.sizes(1400) == [300, 1000, 1400]
    assert asked.sizes(200) == [200]
    assert asked.sizes(10_000) == [300, 1000, 3000]
