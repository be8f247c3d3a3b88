"""The commands that speak to a service, as people and programs use them."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stitchwork.cli.main import main
from stitchwork.client import Stitchwork
from tests.conftest import Pair, make_pair
from tests.integration.client.conftest import MOST_ROWS

Told = Callable[..., Any]


@pytest.fixture
def told(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    """Run a command that succeeds; its JSON."""
    monkeypatch.setenv("STITCHWORK_URL", url)

    def run(*words: Any) -> Any:
        code = main([*map(str, words), "--json"])
        said = capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out)

    return run


def save(path: Path, rows: Any) -> Path:
    np.save(path, rows)
    return path


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_person_with_anchors_and_texts(told: Told, tmp_path: Path, pair: Pair) -> None:
    texts = write(tmp_path / "faq.txt", *(f"question {i}" for i in range(200)))
    anchors = save(tmp_path / "a.npy", pair.x_anchors.astype(np.float64))
    put = told("spaces", "put", "mine", "--set", "faq", "--texts", texts, "--anchors", anchors)
    assert (put["outcome"], put["size"], put["dim"]) == ("created", 200, 24)
    assert told("anchors", "show", "faq")["modality"] == "text"
    again = told("spaces", "put", "mine", "--set", "faq", "--texts", texts, "--anchors", anchors)
    assert again["outcome"] == "same"

    labels = write(tmp_path / "labels.txt", "yes", "no")
    weights = tmp_path / "w.safetensors"
    save_file({"weight": pair.x_anchors[:2], "bias": np.zeros(2, np.float32)}, weights)
    told("heads", "put", "mine", "--space", "mine", "--weights", weights, "--labels", labels)
    assert told("heads", "show", "mine")["labels"] == ["yes", "no"]
    assert "mine" in [head["id"] for head in told("heads", "list")]

    assert told("heads", "delete", "mine") == {"deleted": ["mine"]}
    told("spaces", "delete", "mine")
    told("anchors", "delete", "faq")
    assert "faq" not in [anchor_set["id"] for anchor_set in told("anchors", "list")]


def test_weights_say_their_labels_themselves(told: Told, tmp_path: Path, pair: Pair) -> None:
    layers = {"0.weight": pair.y_anchors[:5], "2.weight": np.ones((2, 5), np.float32)}
    meta = {"labels": '["yes", "no"]', "activation": "gelu"}
    save_file(layers, tmp_path / "w.safetensors", meta)
    put = told("heads", "put", "mlp", "--space", "y", "--weights", tmp_path / "w.safetensors")
    assert (put["labels"], put["activation"]) == (["yes", "no"], "gelu")
    told("heads", "delete", "mlp")


def test_a_set_by_names_puts_rows_in_order(told: Told, tmp_path: Path, pair: Pair) -> None:
    ids = [f"n{i}" for i in range(len(pair.x_anchors))]
    told("anchors", "put", "named", "--ids", write(tmp_path / "ids.txt", *ids))
    backwards = write(tmp_path / "back.txt", *ids[::-1])
    rows = save(tmp_path / "back.npy", pair.x_anchors[::-1])
    one = told("spaces", "put", "n1", "--set", "named", "--anchors", rows, "--ids", backwards)
    rows = save(tmp_path / "there.npy", pair.x_anchors)
    two = told("spaces", "put", "n2", "--set", "named", "--anchors", rows)
    assert two["agreement"] == pytest.approx(1.0)
    assert one["norm_mean"] == two["norm_mean"]
    told("spaces", "delete", "n1", "n2")
    told("anchors", "delete", "named")


def test_a_file_is_translated_into_another(
    told: Told, url: str, tmp_path: Path, pair: Pair
) -> None:
    rows = make_pair(k=2, n=2 * MOST_ROWS + 7).x
    rows[MOST_ROWS] = pair.x_anchors.astype(np.float64).mean(axis=0)
    out = tmp_path / "out.npy"
    given = save(tmp_path / "in.npy", rows.astype(np.float64))
    found = told("translate", given, out, "--source", "x", "--target", "y")
    assert (found["rows"], found["width_in"], found["width_out"]) == (len(rows), 24, 32)
    assert found["undefined"] == 1
    with Stitchwork(url) as client:
        wanted = client.translate(rows, "x", "y")
    np.testing.assert_allclose(np.load(out), wanted, atol=0.01)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npy", "out.npy"]


def test_what_fails_leaves_no_file(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.ones((2 * MOST_ROWS, 24), np.float32)
    rows[-1, 3] = np.inf
    given, out = save(tmp_path / "in.npy", rows), tmp_path / "out.npy"
    words = ["translate", str(given), str(out), "--source", "x", "--target", "y", "--url", url]
    assert main(words) == 1
    assert f"(at /embeddings/{len(rows) - 1}/3)" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["in.npy"]


def test_a_set_that_a_slip_of_the_pen_makes_is_told_of(
    told: Told, url: str, tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = save(tmp_path / "rows.npy", pair.x_anchors)
    for name, note in (("S", ""), ("new", "anchor set new is new"), ("new", "")):
        words = ("spaces", "put", f"on-{name}", "--set", name, "--anchors", str(rows))
        assert main([*words, "--url", url]) == 0
        said = capsys.readouterr().err
        assert note in said
        assert bool(said) == bool(note)
    told("spaces", "delete", "on-S", "on-new")
    told("anchors", "delete", "new")


def test_a_head_of_whatever_makes_arrays(url: str, pair: Pair) -> None:
    weight = np.asfortranarray(pair.y_anchors[:2].astype(np.float64))
    rows = pair.y_anchors[:40]
    with Stitchwork(url) as client:
        client.put_head("mine", "y", weight=weight, bias=np.ones(2), labels=["a", "b"])
        found = client.classify("mine", rows, "y")
        client.delete("heads", "mine")
    wanted = np.asarray(["a", "b"])[np.argmax(rows @ weight.T, axis=1)]
    assert [one["label"] for one in found] == wanted.tolist()


@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
def test_classifying_a_file(
    told: Told, tmp_path: Path, pair: Pair, order: Callable[[Any], Any]
) -> None:
    given = save(tmp_path / "in.npy", order(pair.x))
    found = told("classify", "h", given, "--space", "x", "--top", 2)
    with Stitchwork() as client:
        wanted = client.classify("h", pair.x, "x")
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    assert [one["input"] for one in found] == [str(i) for i in range(len(pair.x))]
    assert {one["label"] for one in found} == {"a", "[b]"}
    assert len(found[0]["top"]) == 2


def test_comparing_and_exporting(told: Told, tmp_path: Path) -> None:
    pairs = told("compatibility", "S", "--spaces", "x", "y")["pairs"]
    assert {(pair["source"], pair["target"]) for pair in pairs} == {("x", "y"), ("y", "x")}
    out = tmp_path / "map.safetensors"
    found = told("export", "x", "y", "-o", out)
    assert found["bytes"] == out.stat().st_size
    assert "landmarks" in load_file(out)
    out = tmp_path / "map.onnx"
    assert told("export", "x", "y", "--head", "h", "--out", out)["format"] == "onnx"
    assert out.stat().st_size


def test_tables_are_for_people(
    url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, pair: Pair
) -> None:
    given = save(tmp_path / "in.npy", pair.x)
    for words, shown in (
        (["spaces", "list"], ["condition number", "ready"]),
        (["spaces", "show", "x"], ["anchor_set", "24"]),
        (["heads", "list"], ["32 → 2"]),
        (["classify", "h", str(given), "--space", "x"], ["[b]"]),
        (["compatibility", "S"], ["verdict"]),
    ):
        assert main([*words, "--url", url]) == 0
        said = capsys.readouterr().out
        assert all(part in said for part in shown), said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["spaces", "show", "nothing"], 1, "nothing"),
        (["spaces", "delete", "y"], 1, "h"),
        (["translate", "missing.npy", "out.npy", "--source", "x", "--target", "y"], 1, "missing"),
        (["classify", "h", __file__, "--space", "x"], 1, "expected an .npy file"),
        (["spaces", "put", "s", "--set", "S"], 1, "expected either --anchors"),
        (["spaces", "put", "s", "--set", "S", "--encoder", "{"], 1, "--encoder: expected JSON"),
        (["heads", "put", "s", "--space", "x"], 1, "expected one of --weights"),
        (["stitch", "x", "h", "--texts", "-", "--images", "."], 1, "got both"),
        (["stitch", "x", "h", "--images", "/nowhere-at-all"], 1, "nowhere-at-all"),
        (["export", "x", "y", "--head", "h"], 1, "only an ONNX file"),
        (["spaces", "list", "--url", "http://127.0.0.1:1"], 3, "cannot be reached"),
        (["spaces", "list", "--url", "nowhere"], 1, "expected a URL"),
    ],
)
def test_refusals_end_with_a_sentence_and_a_code(
    url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a text\n"))
    monkeypatch.setenv("STITCHWORK_URL", url)
    assert main(words) == code
    told = capsys.readouterr()
    assert told.err.startswith("stitchwork: ")
    assert said in told.err
    assert not told.out


def test_no_worker_is_no_fault_of_the_command(
    url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    texts = write(tmp_path / "t.txt", "a", "b")
    assert main(["anchors", "put", "T", "--texts", str(texts), "--url", url]) == 0
    words = ["spaces", "put", "t", "--set", "T", "--text-model", "some/model", "--no-wait"]
    assert main([*words, "--url", url, "--json"]) == 0
    out = capsys.readouterr().out
    assert '"outcome": "accepted"' in out
    assert main(["stitch", "t", "h", "--texts", str(texts), "--url", url]) == 1
    assert "stitchwork: " in capsys.readouterr().err


@pytest.mark.parametrize("words", [["spaces"], ["spaces", "put", "x"], ["translate", "in.npy"]])
def test_a_wrong_command_ends_with_its_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: stitchwork" in capsys.readouterr().err


def test_the_command_line_imports_nothing_heavy_before_it_knows_what_to_do() -> None:
    heavy = "{'numpy', 'httpx', 'pydantic', 'rich', 'stitchwork.settings', 'stitchwork.client'}"
    code = f"import sys, stitchwork.cli.main; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"
