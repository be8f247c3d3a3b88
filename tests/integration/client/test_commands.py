"""The commands that call a service, as people and programs use them."""

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
from stitchwork.errors import InvalidInputError
from tests.conftest import Pair, make_pair
from tests.integration.client.conftest import MAX_ROWS

Run = Callable[..., Any]


@pytest.fixture
def run(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command that succeeds; its JSON."""
    monkeypatch.setenv("STITCHWORK_URL", url)

    def run_command(*words: Any) -> Any:
        code = main([*map(str, words), "--json"])
        output = capsys.readouterr()
        assert code == 0, output.err
        return json.loads(output.out)

    return run_command


def save(path: Path, rows: Any) -> Path:
    np.save(path, rows)
    return path


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_space_by_texts_and_anchors_with_a_head_is_registered_and_deleted(
    run: Run, tmp_path: Path, pair: Pair
) -> None:
    texts = write(tmp_path / "faq.txt", *(f"question {i}" for i in range(200)))
    anchors = save(tmp_path / "a.npy", pair.x_anchors.astype(np.float64))
    put = run(
        "spaces", "put", "mine", "--anchor-set", "faq", "--texts", texts, "--anchors", anchors
    )
    assert (put["outcome"], put["size"], put["dim"]) == ("created", 200, 24)
    assert run("anchor-sets", "show", "faq")["modality"] == "text"
    again = run(
        "spaces", "put", "mine", "--anchor-set", "faq", "--texts", texts, "--anchors", anchors
    )
    assert again["outcome"] == "same"

    labels = write(tmp_path / "labels.txt", "yes", "no")
    weights = tmp_path / "w.safetensors"
    save_file({"weight": pair.x_anchors[:2], "bias": np.zeros(2, np.float32)}, weights)
    run("heads", "put", "mine", "--space", "mine", "--weights", weights, "--labels", labels)
    assert run("heads", "show", "mine")["labels"] == ["yes", "no"]
    assert "mine" in [head["id"] for head in run("heads", "list")]

    assert run("heads", "delete", "mine") == {"deleted": ["mine"]}
    run("spaces", "delete", "mine")
    run("anchor-sets", "delete", "faq")
    assert "faq" not in [anchor_set["id"] for anchor_set in run("anchor-sets", "list")]


def test_head_by_weights_reads_labels_and_activation_from_the_metadata(
    run: Run, tmp_path: Path, pair: Pair
) -> None:
    layers = {"0.weight": pair.y_anchors[:5], "2.weight": np.ones((2, 5), np.float32)}
    meta = {"labels": '["yes", "no"]', "activation": "gelu"}
    save_file(layers, tmp_path / "w.safetensors", meta)
    put = run("heads", "put", "mlp", "--space", "y", "--weights", tmp_path / "w.safetensors")
    kinds = [layer["kind"] for layer in put["layers"]]
    assert (put["labels"], kinds) == (["yes", "no"], ["linear", "gelu", "linear"])
    run("heads", "delete", "mlp")


def test_anchor_set_by_names_orders_the_rows(run: Run, tmp_path: Path, pair: Pair) -> None:
    ids = [f"n{i}" for i in range(len(pair.x_anchors))]
    run("anchor-sets", "put", "named", "--ids", write(tmp_path / "ids.txt", *ids))
    backwards = write(tmp_path / "back.txt", *ids[::-1])
    rows = save(tmp_path / "back.npy", pair.x_anchors[::-1])
    one = run("spaces", "put", "n1", "--anchor-set", "named", "--anchors", rows, "--ids", backwards)
    rows = save(tmp_path / "there.npy", pair.x_anchors)
    two = run("spaces", "put", "n2", "--anchor-set", "named", "--anchors", rows)
    assert two["agreement"] == pytest.approx(1.0)
    assert one["norm_mean"] == two["norm_mean"]
    run("spaces", "delete", "n1", "n2")
    run("anchor-sets", "delete", "named")


def test_anchors_are_chosen_from_a_file_as_indices_or_as_texts(
    run: Run, url: str, tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = save(tmp_path / "pool.npy", pair.x)
    with Stitchwork(url) as client:
        expected = client.choose_anchors(pair.x, 7)
    assert run("choose-anchors", pool, "--count", 7) == {"chosen": expected}
    texts = write(tmp_path / "pool.txt", *(f"text {i}" for i in range(len(pair.x))))
    words = ["choose-anchors", str(pool), "--count", "7", "--texts"]
    assert main([*words, str(texts)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"text {i}" for i in expected]
    short = write(tmp_path / "short.txt", "one")
    assert main([*words, str(short)]) == 1
    assert f"a text for each of {len(pair.x)} rows, got 1" in capsys.readouterr().err


def test_translate_writes_an_npy_file(run: Run, url: str, tmp_path: Path, pair: Pair) -> None:
    rows = make_pair(k=2, n=2 * MAX_ROWS + 7).x
    rows[MAX_ROWS] = pair.x_anchors.astype(np.float64).mean(axis=0)
    out = tmp_path / "out.npy"
    inputs = save(tmp_path / "in.npy", rows.astype(np.float64))
    result = run("translate", inputs, out, "--source", "x", "--target", "y")
    assert (result["rows"], result["width_in"], result["width_out"]) == (len(rows), 24, 32)
    assert result["undefined"] == 1
    with Stitchwork(url) as client:
        expected = client.translate(rows, "x", "y")
    np.testing.assert_allclose(np.load(out), expected, atol=0.01)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npy", "out.npy"]


def test_translate_that_fails_leaves_only_what_has_arrived(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.ones((2 * MAX_ROWS, 24), np.float32)
    rows[-1, 3] = np.inf
    inputs, out = save(tmp_path / "in.npy", rows), tmp_path / "out.npy"
    words = ["translate", str(inputs), str(out), "--source", "x", "--target", "y", "--url", url]
    assert main(words) == 1
    assert f"(at /embeddings/{len(rows) - 1}/3)" in capsys.readouterr().err
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["in.npy", "out.npy.part", "out.npy.part.json"]


def test_put_space_on_an_unknown_set_warns_that_the_set_is_new(
    run: Run, url: str, tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = save(tmp_path / "rows.npy", pair.x_anchors)
    for name, note in (("S", ""), ("new", "anchor set new is new"), ("new", "")):
        words = ("spaces", "put", f"on-{name}", "--anchor-set", name, "--anchors", str(rows))
        assert main([*words, "--url", url]) == 0
        errors = capsys.readouterr().err
        assert note in errors
        assert bool(errors) == bool(note)
    run("spaces", "delete", "on-S", "on-new")
    run("anchor-sets", "delete", "new")


def test_put_head_accepts_arrays_of_any_order_and_dtype(url: str, pair: Pair) -> None:
    weight = np.asfortranarray(pair.y_anchors[:2].astype(np.float64))
    rows = pair.y_anchors[:40]
    with Stitchwork(url) as client:
        client.put_head("mine", "y", weight=weight, bias=np.ones(2), labels=["a", "b"])
        result = client.classify("mine", rows, "y")
        client.delete("heads", "mine")
    expected = np.asarray(["a", "b"])[np.argmax(rows @ weight.T, axis=1)]
    assert [one["label"] for one in result] == expected.tolist()


@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
def test_classify_reads_a_file_of_either_order(
    run: Run, tmp_path: Path, pair: Pair, order: Callable[[Any], Any]
) -> None:
    inputs = save(tmp_path / "in.npy", order(pair.x))
    result = run("classify", "h", inputs, "--space", "x", "--top", 2)
    with Stitchwork() as client:
        expected = client.classify("h", pair.x, "x")
    assert [one["label"] for one in result] == [one["label"] for one in expected]
    assert [one["input"] for one in result] == [str(i) for i in range(len(pair.x))]
    assert {one["label"] for one in result} == {"a", "[b]"}
    assert len(result[0]["top"]) == 2


def test_compatibility_and_export_write_their_results(run: Run, tmp_path: Path) -> None:
    pairs = run("compatibility", "S", "--spaces", "x", "y")["pairs"]
    assert {(pair["source"], pair["target"]) for pair in pairs} == {("x", "y"), ("y", "x")}
    out = tmp_path / "map.safetensors"
    result = run("export", "x", "y", "-o", out)
    assert result["bytes"] == out.stat().st_size
    assert "landmarks" in load_file(out)
    out = tmp_path / "map.onnx"
    assert run("export", "x", "y", "--head", "h", "--out", out)["format"] == "onnx"
    assert out.stat().st_size


def test_commands_without_json_print_tables(
    url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, pair: Pair
) -> None:
    inputs = save(tmp_path / "in.npy", pair.x)
    for words, parts in (
        (["spaces", "list"], ["condition number", "ready"]),
        (["spaces", "show", "x"], ["anchor_set", "24"]),
        (["heads", "list"], ["32 → 2"]),
        (["classify", "h", str(inputs), "--space", "x"], ["[b]"]),
        (["compatibility", "S"], ["verdict"]),
    ):
        assert main([*words, "--url", url]) == 0
        text = capsys.readouterr().out
        assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["spaces", "show", "nothing"], 1, "nothing"),
        (["spaces", "delete", "y"], 1, "h"),
        (["translate", "missing.npy", "out.npy", "--source", "x", "--target", "y"], 1, "missing"),
        (
            ["classify", "h", __file__, "--space", "x"],
            1,
            "expected an .npy, .npz, safetensors",
        ),
        (["spaces", "put", "s", "--anchor-set", "S"], 1, "expected --anchors, or a model"),
        (
            ["spaces", "put", "s", "--anchor-set", "S", "--encoder", "{"],
            1,
            "--encoder: expected JSON",
        ),
        (["heads", "put", "s", "--space", "x"], 1, "expected one of --weights"),
        (["stitch", "x", "h", "--texts", "-", "--images", "."], 1, "got both"),
        (["stitch", "x", "h", "--images", "/nowhere-at-all"], 1, "nowhere-at-all"),
        (["export", "x", "y", "--head", "h"], 1, "expected format onnx"),
        (["spaces", "list", "--url", "http://127.0.0.1:1"], 3, "cannot be reached"),
        (["spaces", "list", "--url", "nowhere"], 2, "expected a URL"),
    ],
)
def test_refusal_prints_a_sentence_and_returns_its_exit_code(
    url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a text\n"))
    monkeypatch.setenv("STITCHWORK_URL", url)
    assert main(words) == code
    output = capsys.readouterr()
    assert output.err.startswith("stitchwork: ")
    assert message in output.err
    assert not output.out


def test_space_without_a_worker_is_accepted_and_stitch_is_refused(
    url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    texts = write(tmp_path / "t.txt", "a", "b")
    assert main(["anchor-sets", "put", "T", "--texts", str(texts), "--url", url]) == 0
    words = ["spaces", "put", "t", "--anchor-set", "T", "--text-model", "timm/none", "--no-wait"]
    assert main([*words, "--url", url, "--json"]) == 0
    out = capsys.readouterr().out
    assert '"outcome": "accepted"' in out
    assert main(["stitch", "t", "h", "--texts", str(texts), "--url", url]) == 1
    assert "stitchwork: " in capsys.readouterr().err


@pytest.mark.parametrize("words", [["spaces"], ["spaces", "put", "x"], ["translate", "in.npy"]])
def test_wrong_command_prints_its_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "Usage: stitchwork" in capsys.readouterr().err


def test_command_line_imports_nothing_heavy_before_a_command_runs() -> None:
    heavy = "{'numpy', 'httpx', 'pydantic', 'rich', 'stitchwork.settings', 'stitchwork.client'}"
    code = f"import sys, stitchwork.cli.main; sys.exit(str({heavy} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stderr.strip() == "set()"


def test_head_is_evaluated_and_calibrated_on_a_labelled_sample(
    run: Run, tmp_path: Path, pair: Pair, client: Stitchwork
) -> None:
    weight = pair.y_anchors[:2] - pair.y_anchors.mean(axis=0)
    client.put_head("judged", "y", arrays={"weight": weight}, labels=["yes", "no"])
    classes = (pair.y @ weight.T).argmax(axis=1)
    classes[::5] = 1 - classes[::5]
    labels = [["yes", "no"][i] for i in classes]
    rows = save(tmp_path / "x.npy", pair.x)
    table = write(tmp_path / "labels.csv", "n,answer", *(f"{i},{x}" for i, x in enumerate(labels)))
    words = ("--embeddings", rows, "--labels", table, "--label-column", "answer", "--calibrate")
    report = run("evaluate-head", "x", "judged", *words, "--min-accuracy", "0.5")
    expected = client.evaluate_head("x", "judged", labels, embeddings=pair.x)
    assert report["translated"] == expected["translated"]
    assert report["calibration"]
    sure = str(report["threshold"]["confidence"])
    predictions = run("classify", "judged", rows, "--space", "x", "--min-confidence", sure)
    share = np.mean([not prediction["abstained"] for prediction in predictions])
    assert share == pytest.approx(report["threshold"]["coverage"], abs=0.02)
    with pytest.raises(InvalidInputError, match="between 0 and 1, got nan"):
        client.evaluate_head("x", "judged", labels, embeddings=rows, min_accuracy=float("nan"))
    client.delete("heads", "judged")


def test_report_on_anchors_is_that_of_the_client(run: Run, client: Stitchwork) -> None:
    assert run("anchor-report", "x", "--target", "y") == client.anchor_report("x", "y")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("embed", "x", "o.npy", "--texts", "none.txt"), "none.txt: No such file or directory"),
        (("spaces", "show", "xx"), "no space xx is registered; did you mean x"),
        (("evaluate-head", "x", "h", "--labels", "l"), "one of --texts, --images and --embeddings"),
    ],
)
def test_mistake_is_answered_by_one_line(
    url: str, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--url", url]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
