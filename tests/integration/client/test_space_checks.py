"""What was registered wrongly is reported by the client, the command line and GET /spaces/{id}."""

import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_digits

from stitchwork.cli.main import main
from stitchwork.client import Stitchwork
from stitchwork.resources import Floats

COUNT = 1500
SWAPPED = 200


@pytest.fixture(scope="module")
def digits() -> tuple[Floats, Floats]:
    """Anchors of two encoders of handwritten digits, in the order of their labels."""
    data = load_digits()
    order = np.argsort(data.target, kind="stable")[:: 1797 // COUNT][:COUNT]
    pixels = data.data[order].astype(np.float32)
    projection = np.random.default_rng(0).normal(size=(64, 96)) / 16
    return pixels, np.tanh(pixels @ projection).astype(np.float32)


def test_shifted_rows_are_in_the_result_of_a_registration_that_is_waited_for(
    url: str, digits: tuple[Floats, Floats]
) -> None:
    x, y = digits
    with Stitchwork(url) as client:
        client.put_space("shift-x", "shifted", anchors=x)
        assert client.wait("spaces", "shift-x")["checks"] == []
        client.put_space("shift-y", "shifted", anchors=np.roll(y, 1, axis=0))
        record = client.wait("spaces", "shift-y")
        (check,) = record["checks"]
        assert check["shifts"] == [{"first": 0, "last": COUNT - 1, "shift": -1}]
        assert record["warnings"][-1] == check["warning"]
        first = httpx.get(f"{url}/spaces/shift-x").json()
        assert first["agreement"] == check["agreement"]
        assert "those of space shift-y: rows 0 to 1499 fit 1 row later" in first["warnings"][-1]
        pairs = client.compatibility("shifted")["spaces"]
        assert [space["warnings"][-1] for space in pairs] == [
            first["warnings"][-1],
            check["warning"],
        ]


def test_swapped_rows_are_printed_by_the_command_that_registers_them(
    url: str,
    digits: tuple[Floats, Floats],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STITCHWORK_URL", url)
    x, y = digits
    order, swapped = np.arange(COUNT), np.random.default_rng(1).choice(COUNT, SWAPPED, False)
    order[swapped] = np.roll(swapped, 1)
    for name, anchors in (("x", x), ("y", y[order]), ("z", y)):
        np.save(tmp_path / f"{name}.npy", anchors)
    words = ["--anchor-set", "swapped", "--json"]
    records = {}
    for name in "xyz":
        path = str(tmp_path / f"{name}.npy")
        assert main(["spaces", "put", f"swap-{name}", "--anchors", path, *words]) == 0
        records[name] = json.loads(capsys.readouterr().out)
    (check,) = records["y"]["checks"]
    rows = set(check["misaligned"])
    assert len(rows & set(swapped.tolist())) >= 0.9 * SWAPPED
    assert len(rows - set(swapped.tolist())) <= 0.1 * len(rows)
    assert "of 1500 anchors probably do not belong together" in records["y"]["warnings"][-1]
    # The rows of z are right: the record says of which space they differ.
    doubts = {check["space"]: check["warning"] for check in records["z"]["checks"]}
    assert doubts["swap-x"] is None
    assert "those of space swap-y" in doubts["swap-y"]
    assert main(["spaces", "show", "swap-y"]) == 0
    table = capsys.readouterr().out
    assert "probably do not belong together" in table


def test_few_distinct_anchors_are_reported_on_every_path(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STITCHWORK_URL", url)
    sentence = "only 2 of 8 anchors are distinct"
    anchors = np.eye(2, 16, dtype=np.float32)[np.arange(8) % 2]
    np.save(tmp_path / "a.npy", anchors)
    words = ["--anchor-set", "few", "--anchors", str(tmp_path / "a.npy")]
    assert main(["spaces", "put", "few", *words]) == 0
    assert sentence in capsys.readouterr().out
    assert main(["spaces", "show", "few"]) == 0
    assert sentence in capsys.readouterr().out
    with Stitchwork(url) as client:
        assert client.put_space("few-too", "few", anchors=anchors)["warnings"][0] == sentence
        assert client.wait("spaces", "few-too")["warnings"][0] == sentence
        assert client.get("spaces", "few")["warnings"][0] == sentence
        spaces = client.compatibility("few")["spaces"]
        assert [space["warnings"][0] for space in spaces] == [sentence, sentence]
    listed = httpx.get(f"{url}/spaces").json()["items"]
    # Spaces whose registration is pending or failed have no warnings.
    (few,) = [space for space in listed if space["id"] == "few"]
    assert few["warnings"][0] == sentence
