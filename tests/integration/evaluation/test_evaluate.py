"""The command: a service, experiments, what is kept, a report and its plots."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from PIL import Image

from stitchwork.cli.main import main
from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError, MalformedInputError
from stitchwork.evaluation.corpus_embeddings import write
from stitchwork.evaluation.evaluate import EXPERIMENTS, LAYERS, Ask, evaluate
from stitchwork.evaluation.experiments.over_http import over_http
from stitchwork.evaluation.experiments.study import Record, Study
from stitchwork.evaluation.markdown import table
from stitchwork.evaluation.plots import plots
from stitchwork.evaluation.report import SECTIONS, report
from stitchwork.evaluation.result_cache import cached_result, key_of_data
from stitchwork.evaluation.summary import Versus, over_pairs, versus
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from tests.support.running_service import running
from tests.unit.evaluation.experiments.conftest import SETTINGS, digits_embedded

CHOSEN = tuple(EXPERIMENTS)
SMALL = replace(SETTINGS, draws=2, counts=(60,), few=(), deltas=(0.8, 0.9), omegas=(1, 8))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(workers=0) as service:
        yield service.url


@pytest.fixture(scope="module")
def ask(url: str, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    folder = tmp_path_factory.mktemp("evaluation")
    write(digits_embedded(), folder / "small.npz")
    return Ask((str(folder / "small.npz"),), CHOSEN, folder / "out", url, settings=SMALL)


@pytest.fixture(scope="module")
def results(ask: Ask) -> Record:
    assert evaluate(ask) == 0
    found: Record = orjson.loads((ask.out / "results.json").read_bytes())
    return found


def test_every_experiment_that_applies_is_in_results_and_report(ask: Ask, results: Record) -> None:
    found = results["data"]["small"]["experiments"]
    # One modality: nothing to cross.
    assert set(found) == set(EXPERIMENTS) - {"modalities"}
    told = (ask.out / "report.md").read_text()
    titles = {title for name, title, _ in SECTIONS if name in found} - {"Across languages"}
    for title in titles:
        assert f"### small: {title}\n" in told
    for space in ("plain", "turned", "layer"):
        assert f"| {space} |" in told


def test_the_report_shows_plots_that_are_there(ask: Ask, results: Record) -> None:
    told = (ask.out / "report.md").read_text()
    shown = [line.partition("](")[2].rstrip(")") for line in told.splitlines() if line[:2] == "!["]
    assert len(shown) >= 8
    for path in shown:
        with Image.open(ask.out / path) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert pixels.std() > 5


def test_over_http_every_prediction_is_the_direct_one(results: Record) -> None:
    found = results["data"]["small"]["experiments"]["service"]["bridges"]
    assert found["native"]["asked"] == 3 * len(digits_embedded().test)
    for told in found.values():
        assert told["agreed"] == told["asked"]


def test_the_check_over_http_sees_a_service_that_answers_otherwise(url: str) -> None:
    """Another study's expectations against the same service: it must not agree by construction."""
    study = Study(digits_embedded(), SMALL)

    class Other(Stitchwork):
        def put_space(self, id_: str, anchor_set: str, **told: object) -> Record:
            shifted = {**told, "anchors": np.roll(np.asarray(told["anchors"]), int(id_[-1]), 0)}
            return super().put_space(id_, anchor_set, **shifted)  # type: ignore[arg-type]

    with Other(url) as other:
        found = over_http(other, study)["bridges"]
    assert found[DEFAULT_BRIDGE]["agreed"] < 0.7 * found[DEFAULT_BRIDGE]["asked"]
    assert found["native"]["agreed"] == found["native"]["asked"]
    with Stitchwork(url) as client:
        assert list(client.records("spaces")) == []
        assert list(client.records("heads")) == []


def test_what_is_there_is_not_computed_again(ask: Ask, results: Record) -> None:
    files = sorted((ask.out / "small").glob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in files}
    assert evaluate(ask) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert orjson.loads((ask.out / "results.json").read_bytes()) == results


def test_what_is_missing_is_computed_and_the_rest_kept(ask: Ask, results: Record) -> None:
    lost, other = (ask.out / "small" / f"{name}.json" for name in ("norms", "translation"))
    stamp = other.stat().st_mtime_ns
    lost.unlink()
    assert evaluate(replace(ask, only=("norms", "translation"))) == 0
    assert lost.exists()
    assert other.stat().st_mtime_ns == stamp


def test_other_settings_or_data_are_another_result() -> None:
    embedded = digits_embedded()
    key = key_of_data(embedded, SMALL)
    assert key == key_of_data(digits_embedded(), SMALL)
    assert key != key_of_data(embedded, replace(SMALL, seed=1))
    rows = {**embedded.rows, "plain": embedded.rows["plain"] + 1}
    assert key != key_of_data(replace(embedded, rows=rows), SMALL)
    assert key != key_of_data(replace(embedded, train=embedded.train[1:]), SMALL)


def test_a_result_is_kept_by_its_key(tmp_path: Path) -> None:
    path, calls = tmp_path / "one.json", []

    def compute() -> Record:
        calls.append(1)
        return {"calls": len(calls)}

    assert cached_result(path, "a", compute).again is False
    assert cached_result(path, "a", compute).result == {"calls": 1}
    assert cached_result(path, "b", compute).result == {"calls": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["one.json"]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(MalformedInputError, match="damaged"):
        cached_result(path, "b", compute)


def test_a_failed_experiment_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Record:
        raise InvalidInputError("not this one")

    with pytest.raises(InvalidInputError):
        cached_result(tmp_path / "sub" / "one.json", "a", fail)
    assert not (tmp_path / "sub").exists()


def test_prediction_brings_what_it_reads() -> None:
    ask = Ask(only=("prediction",))
    assert [name for name in EXPERIMENTS if ask.wants(name)] == [
        "sensitivity",
        "translation",
        "prediction",
    ]
    assert not ask.wants(LAYERS)


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="got colours"):
        Ask(only=("colours",))
    with pytest.raises(InvalidInputError, match="expected peers of"):
        Ask(peers=("nobody",))
    code = main(["evaluate", str(tmp_path / "nothing"), "--only", "sizes", "--out", str(tmp_path)])
    assert code == 1
    assert "got sizes" in capsys.readouterr().err


def languages() -> Record:
    """A result of parallel texts, as far as the report reads it."""
    spaces = {
        f"one/{tongue}": {"modality": "text", "width": 4, "origin": "made"} for tongue in "ab"
    }
    records = [
        {
            **{"k": 60, "draw": draw, "source": x, "target": y, "method": method},
            **{"recall1": 0.5, "recall10": 0.7, "overlap10": 0.4, "similarity": 0.25},
            "centred": 0.2,
        }
        for draw in (0, 1)
        for x, y in (("one/a", "one/b"), ("one/b", "one/a"))
        for method in ("absolute", "irp", DEFAULT_BRIDGE, "irp, best δ ω", "both: Procrustes")
    ]
    found = {"native": {}, "sizes": [60], "chosen": [], "records": records}
    return {
        **{"train": 100, "test": 50, "classes": 0, "notes": ["3 rows were left out."]},
        **{"seconds": {"translation": 1.0}, "spaces": spaces},
        "experiments": {"translation": found},
    }


def test_parallel_texts_get_a_table_of_languages(results: Record, tmp_path: Path) -> None:
    told = {"conditions": results["conditions"], "data": {"two": languages()}}
    text = report(told, {})
    assert "### two: Across languages" in text
    assert "| one/a → one/b | 0.250 | 0.250 | 0.250 | 0.500 | 0.500 | 0.500 |" in text
    assert "no labels. Experiments took 1 s. 3 rows were left out." in text
    assert "Zero-shot stitching" not in text
    assert set(plots(told, tmp_path)) == {"two/methods", "two/anchors"}


def test_means_are_of_pairs_and_verdicts_of_draws() -> None:
    def one(source: str, draw: int, method: str, value: float) -> Record:
        of = {"k": 9, "draw": draw, "source": source, "target": "t"}
        return {**of, "method": method, "linear": value}

    records = [one("a", 0, "x", 0.2), one("a", 1, "x", 0.4), one("b", 0, "x", 0.9)]
    found = over_pairs(records, lambda r: float(r["linear"]))
    assert found == pytest.approx((0.6, 0.3))
    assert over_pairs([], lambda r: 0.0) is None
    close = [one("a", n, m, v) for n in (0, 1) for m, v in ((DEFAULT_BRIDGE, 0.81), ("o", 0.80))]
    assert versus(close, "o", "linear").verdict == "above"
    assert Versus(-0.02, 0.005).verdict == "below"
    assert Versus(0.004, 0.005).verdict == "tie"
    noisy = [
        one("a", n, m, v)
        for n, ours in enumerate((0.9, 0.7, 0.8))
        for m, v in ((DEFAULT_BRIDGE, ours), ("o", 0.78))
    ]
    assert versus(noisy, "o", "linear").verdict == "tie"


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert table(["a"], [["x|y"], [None]]) == "| a |\n| --- |\n| x\\|y |\n| n/a |"
