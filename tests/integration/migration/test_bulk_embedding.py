"""`stitchwork embed --engine local` beside the workers of a service."""

import json
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stitchwork.cli.main import main
from stitchwork.client import Stitchwork
from tests.support.running_service import SharedService
from tests.support.space_encoders import save_model

Run = Callable[..., Any]
ROWS: Final = 60
TEXTS: Final = [f"the word {i} was longer" for i in range(ROWS)]
LONG: Final = "word " * 100
SPACE: Final = "bulk"


@pytest.fixture(scope="module")
def run(shared_service: SharedService) -> Run:
    """Run a command beside the space of a small model; its JSON or, if it fails, its message."""
    folder, url = shared_service.folder, shared_service.running.url
    spec = save_model(folder / SPACE)
    with Stitchwork(url) as client:
        client.put_anchor_set(f"{SPACE}-texts", "text", items=TEXTS)
        client.put_space(
            SPACE,
            f"{SPACE}-texts",
            encoder=spec.model_dump(exclude_defaults=True) | {"kind": spec.kind},
        )
        client.wait("spaces", SPACE)

    def run_command(*words: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STITCHWORK_MODEL_ROOTS", str(folder))
            patch.setenv("STITCHWORK_COMPILE_MODELS", "false")
            with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
                code = main([*map(str, words), "--url", url, "--json"])
        return json.loads(out.getvalue()) if code == 0 else f"{code}: {err.getvalue()}"

    return run_command


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A Parquet file of texts with ids; row 7 is too long."""
    texts = [LONG if i == 7 else text for i, text in enumerate(TEXTS)]
    table = pa.table({"id": [f"r{i}" for i in range(ROWS)], "text": texts, "n": range(ROWS)})
    pq.write_table(table, tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def test_rows_are_those_of_the_workers(
    run: Run, shared_service: SharedService, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "b.parquet"
    words = ("embed", SPACE, target, "--texts", source, "--engine", "local")
    result = run(*words)
    assert (result["rows"], result["written"], result["rejected"]) == (ROWS, ROWS - 1, 1)
    (reject,) = map(json.loads, Path(result["rejects"][0]).read_text().splitlines())
    assert reject["id"] == "r7"
    assert "24 tokens" in reject["reason"]
    table = pq.read_table(target)
    others = [i for i in range(ROWS) if i != 7]
    assert table.column("n").to_pylist() == others
    with Stitchwork(shared_service.running.url) as client:
        expected = client.embed(SPACE, [TEXTS[i] for i in others])
        version = client.get("spaces", SPACE)["version"]
    rows = np.array(table.column("embedding").to_pylist(), np.float32)
    # The workers run a compiled model.
    np.testing.assert_allclose(rows, expected, atol=1e-3 * np.linalg.norm(expected, axis=1).max())
    assert json.loads(table.schema.metadata[b"stitchwork"])["version"] == version
    again = run(*words)
    assert (again["resumed_at"], again["written"]) == (ROWS, ROWS - 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "local"], "2: .*need --texts with a file or folder of Parquet"),
        (["--engine", "local", "--resume"], "2: .*--resume is none of --engine local"),
        (["--engine", "ray", "--shard", "0/2"], "2: .*--shard divides the files"),
        (["--block-rows", "5"], "2: .*--block-rows is none of --engine service"),
        (["--engine", "local", "--images", "a.parquet"], r"1: .*a\.parquet: no such file"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(
    run: Run, tmp_path: Path, words: list[str], message: str
) -> None:
    result = run("embed", SPACE, tmp_path / "b.parquet", *words)
    assert re.search(message, result, re.DOTALL), result
    assert list(tmp_path.iterdir()) == []


def test_space_without_an_encoder_is_refused(
    run: Run, shared_service: SharedService, source: Path, tmp_path: Path
) -> None:
    with Stitchwork(shared_service.running.url) as client:
        anchors = np.random.default_rng(0).normal(size=(ROWS, 8)).astype(np.float32)
        client.put_space(f"{SPACE}-rows", f"{SPACE}-texts", anchors=anchors)
    target = tmp_path / "b.parquet"
    result = run("embed", f"{SPACE}-rows", target, "--texts", source, "--engine", "local")
    assert f"1: stitchwork: expected an encoder of the space {SPACE}-rows: it has none" in result


def test_inputs_of_another_modality_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"no image")
    target = tmp_path / "b.parquet"
    result = run("embed", SPACE, target, "--images", tmp_path / "photos", "--engine", "local")
    assert f"photos: expected texts, which {SPACE} embeds, got images" in result
    assert not target.exists()


def test_image_files_of_a_folder_get_the_rows_of_the_workers(
    run: Run, shared_service: SharedService, tmp_path: Path
) -> None:
    photos, space = tmp_path / "photos", f"{SPACE}-images"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(photos / f"{i:02}.png")
    files = sorted(photos.iterdir())
    contents = [path.read_bytes() for path in files]
    encoder = {
        "kind": "timm",
        "model": "tf_efficientnet_lite0",
        "weights": str(shared_service.lite0),
    }
    with Stitchwork(shared_service.running.url) as client:
        client.put_anchor_set(space, "image", items=contents)
        client.put_space(space, space, encoder=encoder)
        client.wait("spaces", space)
        files[5].write_bytes(b"no image")
        words = ("embed", space, tmp_path / "b.npy", "--images", photos, "--engine", "local")
        result = run(*words)
        others = [i for i in range(len(files)) if i != 5]
        expected = client.embed(space, [contents[i] for i in others])
    assert (result["written"], result["rejected"]) == (11, 1), result
    (reject,) = map(json.loads, Path(result["rejects"][0]).read_text().splitlines())
    assert reject["id"] == "05.png"
    ids = (tmp_path / "b.ids.txt").read_text().split()
    assert ids == [files[i].name for i in others]
    rows = np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(rows, expected, atol=1e-3 * np.linalg.norm(expected, axis=1).max())


def test_other_limit_of_tokens_than_that_of_the_workers_is_refused(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHWORK_MAX_TEXT_TOKENS", "16")
    target = tmp_path / "b.parquet"
    result = run("embed", SPACE, target, "--texts", source, "--engine", "local")
    assert "expected texts of at most 24 tokens, as the service accepts them, got 16" in result
    assert not target.exists()
