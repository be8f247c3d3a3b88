"""Files that change under a loaded encoder are noticed before it is used again."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

from stitchwork.errors import InvalidInputError, JobFailedError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.hub import Hub
from stitchwork.models.model_files import ModelFiles
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import ImageEncoder, TextEncoder
from tests.integration.models.test_hub import COMMITS, MODEL, store
from tests.support import planted_models
from tests.support.planted_models import (
    PLANTED_MODELS,
    TIMM_MODEL,
    WEIGHTS,
    embed_samples,
    weights_files,
)

pytestmark = pytest.mark.models


def cache(*roots: Path, **options: Any) -> EncoderCache:
    return EncoderCache("cpu", roots, offline=True, compile_models=False, **options)


def overwrite_unseen(file: Path, content: bytes) -> None:
    """Overwrite a file in place, and set its time of modification back."""
    before = file.stat()
    assert len(content) == before.st_size
    planted_models.overwrite(file, content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a small text model."""
    return planted_models.save_transformer(tmp_path / "model")


@pytest.mark.parametrize("kind", PLANTED_MODELS)
def test_other_weights_are_loaded_before_the_next_use(tmp_path: Path, kind: str) -> None:
    """Each file is overwritten in place, then replaced by what it was."""
    folder = PLANTED_MODELS[kind].save(tmp_path / "model")
    spec = PLANTED_MODELS[kind].encoder(folder)
    encoders = cache(tmp_path)
    first = encoders.get(spec)
    assert encoders.get(spec) is first
    rows = embed_samples(first)
    for weights in weights_files(folder):
        original = weights.read_bytes()
        overwrite_unseen(weights, planted_models.other_weights(weights))
        second = encoders.get(spec)
        assert second.files_digest != first.files_digest
        assert f"{weights.name} was changed" in second.changes
        assert np.abs(embed_samples(second) - rows).max() > 1e-3, weights
        np.testing.assert_array_equal(
            embed_samples(second), embed_samples(cache(tmp_path).get(spec))
        )
        planted_models.replace(weights, original)
        restored = encoders.get(spec)
        assert (restored.files_digest, restored.changes) == (first.files_digest, "")
        np.testing.assert_array_equal(embed_samples(restored), rows)


@pytest.mark.parametrize("kind", PLANTED_MODELS)
def test_weights_that_were_cut_short_or_removed_are_an_error_until_they_are_restored(
    tmp_path: Path, kind: str
) -> None:
    folder = PLANTED_MODELS[kind].save(tmp_path / "model")
    spec = PLANTED_MODELS[kind].encoder(folder)
    encoders = cache(tmp_path)
    first = encoders.get(spec)
    weights = weights_files(folder)[0]
    content = weights.read_bytes()
    planted_models.cut_short(weights)
    for _ in range(2):
        with pytest.raises(JobFailedError) as cut:
            encoders.get(spec)
        assert f"{weights.name} was changed from {len(content)} to" in cut.value.message
    weights.unlink()
    with pytest.raises(JobFailedError) as removed:
        encoders.get(spec)
    assert f"{weights.name} was removed" in removed.value.message
    assert "restore them, or write valid ones" in removed.value.message
    weights.write_bytes(content)
    assert encoders.get(spec).files_digest == first.files_digest


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json"]
)
def test_a_change_of_any_file_that_is_read_is_another_digest(tmp_path: Path, name: str) -> None:
    folder = planted_models.save_sentence_transformer(tmp_path / "model")
    spec = TextEncoder(model=str(folder))
    encoders = cache(tmp_path)
    first = encoders.get(spec)
    file = folder / name
    file.write_text(file.read_text().rstrip() + "\n \n")
    assert f"{name} was changed" in encoders.get(spec).changes
    assert encoders.get(spec).files_digest != first.files_digest


def test_a_file_that_appears_is_noticed(tmp_path: Path) -> None:
    folder = planted_models.save_transformer(tmp_path / "model")
    spec = TextEncoder(model=str(folder))
    encoders = cache(tmp_path)
    first = encoders.get(spec)
    (folder / "notes.md").write_text("No model reads it.")
    assert encoders.get(spec) is first
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    assert "sentence_bert_config.json was added" in encoders.get(spec).changes


def test_a_config_that_appears_beside_a_timm_file_is_noticed(tmp_path: Path) -> None:
    folder = planted_models.save_timm_model(tmp_path / "model")
    spec = ImageEncoder(model=TIMM_MODEL, weights=str(folder / WEIGHTS))
    encoders = cache(tmp_path)
    first = encoders.get(spec)
    (folder / "other.txt").write_text("No model reads it.")
    assert encoders.get(spec) is first
    (folder / "config.json").write_text("{}")
    assert encoders.get(spec).changes == "config.json was added"


@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_link_that_leads_elsewhere_is_noticed(tmp_path: Path, whole_folder: bool) -> None:
    one, two = (planted_models.save_transformer(tmp_path / name) for name in ("one", "two"))
    planted_models.replace(two / WEIGHTS, planted_models.other_weights(two / WEIGHTS))
    link = tmp_path / "current"
    if whole_folder:
        link.symlink_to(one)
        pointer, targets = link, (one, two)
    else:
        shutil.copytree(one, link)
        pointer, targets = link / WEIGHTS, (one / WEIGHTS, two / WEIGHTS)
        pointer.unlink()
        pointer.symlink_to(targets[0])
    encoders, spec = cache(tmp_path), TextEncoder(model=str(link))
    first = encoders.get(spec)
    (tmp_path / "next").symlink_to(targets[1])
    (tmp_path / "next").replace(pointer)
    second = encoders.get(spec)
    assert second.files_digest != first.files_digest
    expected = cache(tmp_path).get(TextEncoder(model=str(two)))
    np.testing.assert_array_equal(embed_samples(second), embed_samples(expected))


def test_a_link_that_leads_out_of_the_allowed_folders_is_refused(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    one = planted_models.save_transformer(allowed / "one")
    other = planted_models.save_transformer(tmp_path / "other")
    link = allowed / "current"
    link.symlink_to(one)
    encoders, spec = cache(allowed), TextEncoder(model=str(link))
    encoders.get(spec)
    link.unlink()
    link.symlink_to(other)
    with pytest.raises(InvalidInputError, match="model_roots") as raised:
        encoders.get(spec)
    assert raised.value.code == "path-not-allowed"


def test_a_file_of_a_hub_model_at_a_commit_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, COMMITS[0])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoders = cache(hub_models=("*",))
    spec = TextEncoder(model=MODEL, revision=COMMITS[0])
    first = encoders.get(spec)
    (weights,) = weights_files(tmp_path)
    planted_models.overwrite(weights, planted_models.other_weights(weights))
    second = encoders.get(spec)
    assert second.files_digest != first.files_digest
    assert np.abs(embed_samples(second) - embed_samples(first)).max() > 1e-3


def test_equal_files_have_one_digest_wherever_they_are(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    encoders = cache(tmp_path)
    digests = {encoders.get(TextEncoder(model=str(path))).files_digest for path in (folder, copy)}
    assert len(digests) == 1


def test_files_that_were_written_anew_with_the_same_content_are_not_loaded_again(
    folder: Path,
) -> None:
    encoders, spec = cache(folder), TextEncoder(model=str(folder))
    first = encoders.get(spec)
    for file in folder.iterdir():
        planted_models.replace(file, file.read_bytes())
        file.touch()
    assert encoders.get(spec) is first


@contextmanager
def opened_files(folder: Path) -> Iterator[list[str]]:
    """The files of a folder that this process opens."""
    opened: list[str] = []
    active = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # A hook cannot be removed.
        if active and event == "open" and str(arguments[0]).startswith(str(folder)):
            opened.append(str(arguments[0]))

    sys.addaudithook(hook)
    yield opened
    active = False


def test_files_that_did_not_change_are_not_read_again(tmp_path: Path) -> None:
    spec = TextEncoder(model=str(minilm_folder()))
    encoders = cache(minilm_folder())
    first = encoders.get(spec)
    with opened_files(minilm_folder()) as opened:
        assert encoders.get(spec) is first
        assert opened == []
        encoders.evict(next(iter(encoders.loaded())))
        encoders.get(spec)
        assert opened != [], "the loader opens them"


def test_a_file_that_was_written_just_now_is_read_again(folder: Path) -> None:
    """Its next change may have the same time of modification."""
    encoders, spec = cache(folder), TextEncoder(model=str(folder))
    first = encoders.get(spec)
    (folder / WEIGHTS).touch()
    with opened_files(folder) as opened:
        assert encoders.get(spec) is first
    assert str(folder / WEIGHTS) in opened


def test_the_classifier_of_changed_files_is_another(tmp_path: Path) -> None:
    folder = planted_models.save_text_classifier(tmp_path / "model")
    encoders, spec = cache(tmp_path), TextEncoder(model=str(folder), pooling="cls")
    first = encoders.classifier(spec)
    assert first.files_digest == encoders.get(spec).files_digest
    weights = folder / WEIGHTS
    planted_models.overwrite(weights, planted_models.other_weights(weights))
    second = encoders.classifier(spec)
    assert first.files_digest != second.files_digest == encoders.get(spec).files_digest
    weights_before, weights_after = (one.head.layers[0].arrays["weight"] for one in (first, second))
    assert np.abs(weights_after - weights_before).max() > 1e-3


def test_every_file_that_tokenizers_of_transformers_read_is_part_of_the_digest(
    tmp_path: Path,
) -> None:
    names = {
        name
        for tokenizers in TOKENIZER_MAPPING.values()
        for tokenizer in (tokenizers if isinstance(tokenizers, tuple) else (tokenizers,))
        if tokenizer is not None
        for name in getattr(tokenizer, "vocab_files_names", {}).values()
    }
    assert {"vocab.txt", "merges.txt", "tokenizer.json"} < names
    for name in names:
        (tmp_path / name).write_text("x")
    snapshot = ModelFiles([tmp_path], Hub((), offline=True)).snapshot(
        TextEncoder(model=str(tmp_path))
    )
    assert snapshot.digests.keys() == names
