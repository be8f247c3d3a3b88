"""`stitchwork evaluate`: a service, experiments, reused results, a report and its plots."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from PIL import Image

from benchmarks.evidence import write_page
from stitchwork.cli.main import main
from stitchwork.client import Stitchwork
from stitchwork.errors import InvalidInputError, MalformedInputError
from stitchwork.evaluation.corpus_embeddings import save_embeddings
from stitchwork.evaluation.evaluate import EvaluationOptions, evaluate
from stitchwork.evaluation.experiment_catalog import EXPERIMENTS, LAYERS
from stitchwork.evaluation.experiments.over_http import over_http
from stitchwork.evaluation.experiments.study import Record, Study
from stitchwork.evaluation.markdown import table
from stitchwork.evaluation.plots import plots
from stitchwork.evaluation.report import SECTIONS, render_report
from stitchwork.evaluation.result_cache import cached_result, data_key
from stitchwork.evaluation.summary import DefaultComparison, compare_with_default, mean_over_pairs
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from tests.support.running_service import running
from tests.unit.evaluation.experiments.conftest import SETTINGS, digits_embedded

CHOSEN = tuple(EXPERIMENTS)
SMALL = replace(SETTINGS, draws=2, counts=(60,), small_counts=(), deltas=(0.8, 0.9), omegas=(1, 8))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(workers=0) as service:
        yield service.url


@pytest.fixture(scope="module")
def options(url: str, tmp_path_factory: pytest.TempPathFactory) -> EvaluationOptions:
    folder = tmp_path_factory.mktemp("evaluation")
    save_embeddings(digits_embedded(), folder / "small.npz")
    return EvaluationOptions(
        (str(folder / "small.npz"),), CHOSEN, folder / "out", url, settings=SMALL
    )


@pytest.fixture(scope="module")
def results(options: EvaluationOptions) -> Record:
    assert evaluate(options) == 0
    result: Record = orjson.loads((options.out / "results.json").read_bytes())
    return result


def test_every_experiment_that_applies_is_in_results_and_report(
    options: EvaluationOptions, results: Record
) -> None:
    result = results["data"]["small"]["experiments"]
    # There is only one modality, and no judgement of relevance.
    assert set(result) == set(EXPERIMENTS) - {"modalities", "relevance"}
    report = (options.out / "report.md").read_text()
    titles = {title for name, title, _ in SECTIONS if name in result} - {"Across languages"}
    for title in titles:
        assert f"### small: {title}\n" in report
    for space in ("plain", "turned", "layer"):
        assert f"| {space} |" in report


def test_report_links_existing_plots(options: EvaluationOptions, results: Record) -> None:
    report = (options.out / "report.md").read_text()
    links = [
        line.partition("](")[2].rstrip(")") for line in report.splitlines() if line[:2] == "!["
    ]
    assert len(links) >= 8
    for path in links:
        with Image.open(options.out / path) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.std() > 5


def test_page_of_evidence_is_the_report_with_its_plots(
    options: EvaluationOptions, results: Record, tmp_path: Path
) -> None:
    write_page([options.out], tmp_path, "python -m benchmarks.evidence DATA")
    page = (tmp_path / "evidence.md").read_text()
    assert page.startswith("# Evidence\n\nWritten by `python -m benchmarks.evidence DATA` on 20")
    assert "\n## The paper's table\n" in page
    assert "### small: A method for each pair\n" in page
    links = [line.partition("](")[2].rstrip(")") for line in page.splitlines() if line[:2] == "!["]
    assert links == ["images/evidence-cells.png", "images/evidence-small-anchors.png"]
    assert sorted(f"images/{path.name}" for path in (tmp_path / "images").iterdir()) == links


def test_predictions_over_http_equal_the_direct_ones(results: Record) -> None:
    result = results["data"]["small"]["experiments"]["service"]["bridges"]
    assert result["native"]["predictions"] == 3 * len(digits_embedded().test)
    for report in result.values():
        assert report["agreed"] == report["predictions"]


def test_over_http_detects_a_service_with_other_anchors(url: str) -> None:
    """Anchors registered in another order must lower the agreement."""
    study = Study(digits_embedded(), SMALL)

    class Other(Stitchwork):
        def put_space(self, id_: str, anchor_set: str, **report: object) -> Record:
            shifted = {**report, "anchors": np.roll(np.asarray(report["anchors"]), int(id_[-1]), 0)}
            return super().put_space(id_, anchor_set, **shifted)  # type: ignore[arg-type]

    with Other(url) as other:
        result = over_http(other, study)["bridges"]
    assert result[DEFAULT_BRIDGE]["agreed"] < 0.7 * result[DEFAULT_BRIDGE]["predictions"]
    assert result["native"]["agreed"] == result["native"]["predictions"]
    with Stitchwork(url) as client:
        assert list(client.records("spaces")) == []
        assert list(client.records("heads")) == []


def test_existing_results_are_reused(options: EvaluationOptions, results: Record) -> None:
    files = sorted((options.out / "small").glob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in files}
    assert evaluate(options) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert orjson.loads((options.out / "results.json").read_bytes()) == results


def test_missing_result_is_computed_and_others_reused(
    options: EvaluationOptions, results: Record
) -> None:
    missing, other = (options.out / "small" / f"{name}.json" for name in ("norms", "translation"))
    stamp = other.stat().st_mtime_ns
    missing.unlink()
    assert evaluate(replace(options, only=("norms", "translation"))) == 0
    assert missing.exists()
    assert other.stat().st_mtime_ns == stamp


def test_data_key_depends_on_settings_and_data() -> None:
    embedded = digits_embedded()
    key = data_key(embedded, SMALL)
    assert key == data_key(digits_embedded(), SMALL)
    assert key != data_key(embedded, replace(SMALL, seed=1))
    rows = {**embedded.rows, "plain": embedded.rows["plain"] + 1}
    assert key != data_key(replace(embedded, rows=rows), SMALL)
    assert key != data_key(replace(embedded, train=embedded.train[1:]), SMALL)


def test_cached_result_is_reused_for_the_same_key(tmp_path: Path) -> None:
    path, calls = tmp_path / "one.json", []

    def compute() -> Record:
        calls.append(1)
        return {"calls": len(calls)}

    assert cached_result(path, "a", compute).from_cache is False
    assert cached_result(path, "a", compute).result == {"calls": 1}
    assert cached_result(path, "b", compute).result == {"calls": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["one.json"]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(MalformedInputError, match="not valid JSON"):
        cached_result(path, "b", compute)


def test_failed_experiment_writes_no_result(tmp_path: Path) -> None:
    def fail() -> Record:
        raise InvalidInputError("not this one")

    with pytest.raises(InvalidInputError):
        cached_result(tmp_path / "sub" / "one.json", "a", fail)
    assert not (tmp_path / "sub").exists()


def test_selecting_prediction_includes_what_it_requires() -> None:
    options = EvaluationOptions(only=("prediction",))
    assert [name for name in EXPERIMENTS if options.includes(name)] == [
        "sensitivity",
        "translation",
        "prediction",
    ]
    assert not options.includes(LAYERS)


def test_unknown_experiments_and_peers_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match="got colours"):
        EvaluationOptions(only=("colours",))
    with pytest.raises(InvalidInputError, match="expected peers of"):
        EvaluationOptions(peers=("nobody",))
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
    result = {"native": {}, "sizes": [60], "chosen": [], "records": records}
    return {
        **{"train": 100, "test": 50, "classes": 0, "notes": ["3 rows were left out."]},
        **{"seconds": {"translation": 1.0}, "spaces": spaces},
        "experiments": {"translation": result},
    }


def test_parallel_texts_have_a_table_of_languages(results: Record, tmp_path: Path) -> None:
    report = {"conditions": results["conditions"], "data": {"two": languages()}}
    text = render_report(report, {})
    assert "### two: Across languages" in text
    assert "| one/a → one/b | 0.250 | 0.250 | 0.250 | 0.500 | 0.500 | 0.500 | 0.500 |" in text
    assert "| recall@1, both: Procrustes |\n" in text
    assert "no labels. Experiments took 1 s. 3 rows were left out." in text
    assert "Zero-shot stitching" not in text
    assert set(plots(report, tmp_path)) == {"two/methods", "two/anchors", "cells"}


def test_means_are_over_pairs_and_verdicts_over_draws() -> None:
    def record(source: str, draw: int, method: str, value: float) -> Record:
        of = {"k": 9, "draw": draw, "source": source, "target": "t"}
        return {**of, "method": method, "linear": value}

    records = [record("a", 0, "x", 0.2), record("a", 1, "x", 0.4), record("b", 0, "x", 0.9)]
    result = mean_over_pairs(records, lambda r: float(r["linear"]))
    assert result == pytest.approx((0.6, 0.3))
    assert mean_over_pairs([], lambda r: 0.0) is None
    close = [record("a", n, m, v) for n in (0, 1) for m, v in ((DEFAULT_BRIDGE, 0.81), ("o", 0.80))]
    assert compare_with_default(close, "o", "linear").verdict == "above"
    assert DefaultComparison(-0.02, 0.005).verdict == "below"
    assert DefaultComparison(0.004, 0.005).verdict == "tie"
    noisy = [
        record("a", n, m, v)
        for n, ours in enumerate((0.9, 0.7, 0.8))
        for m, v in ((DEFAULT_BRIDGE, ours), ("o", 0.78))
    ]
    assert compare_with_default(noisy, "o", "linear").verdict == "tie"


def test_vertical_bar_in_a_cell_is_escaped() -> None:
    assert table(["a"], [["x|y"], [None]]) == "| a |\n| --- |\n| x\\|y |\n| n/a |"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encoders", "no-such-encoder"], "no-such-encoder"),
        (["--encoders", "minilm"], "minilm needs text inputs"),
        (["no-such-data"], "no-such-data"),
        (["--only", "no-such-experiment"], "no-such-experiment"),
        (["--max-rows", "0"], "--max-rows of 1 or more"),
        (["--draws", "0"], "at least 1 draw"),
    ],
)
def test_wrong_arguments_are_refused_before_a_service_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", *words, "--out", str(out)]) == 1
    output = capsys.readouterr()
    assert message in output.err
    assert "Stitchwork serves" not in output.out
    assert not out.exists()
