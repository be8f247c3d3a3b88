"""Hub models, loaded from the cache of the hub's library; nothing connects to the hub."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub.utils._paths import filter_repo_objects

from stitchwork.errors import InvalidInputError, JobFailedError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.hub import FILES, IGNORED, Hub
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import TextEncoder

pytestmark = pytest.mark.models

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
COMMITS = ("0" * 39 + "a", "0" * 39 + "b")


def store(cache: Path, commit: str) -> None:
    """Write the model into a cache of the hub's library, as `main` at this commit."""
    model = cache / f"models--{MODEL.replace('/', '--')}"
    (model / "refs").mkdir(parents=True, exist_ok=True)
    (model / "refs" / "main").write_text(commit)
    shutil.copytree(minilm_folder(), model / "snapshots" / commit, symlinks=False)


def move(cache: Path, commit: str) -> None:
    """Let `main` point to another commit."""
    (cache / f"models--{MODEL.replace('/', '--')}" / "refs" / "main").write_text(commit)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the model at two commits, of which `main` is the first."""
    for commit in reversed(COMMITS):
        store(tmp_path, commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_revision_is_pinned_to_its_commit(cache: Path) -> None:
    encoders = EncoderCache("cpu", [], offline=True, hub_models=("sentence-transformers/*",))
    spec = TextEncoder(model=MODEL)
    pinned = encoders.pin(spec)
    assert pinned.revision == COMMITS[0]
    move(cache, COMMITS[1])
    assert encoders.pin(pinned) == pinned, "a commit is not resolved again"
    assert encoders.pin(spec).revision == COMMITS[1]
    local = TextEncoder(model=str(minilm_folder()))
    with_root = EncoderCache("cpu", [minilm_folder()], offline=True)
    assert with_root.pin(local).revision is None
    assert encoders.get(pinned).encoder.dim == 384


def test_only_models_that_match_a_pattern_are_allowed(cache: Path) -> None:
    for patterns in ((), ("timm/*",), ("sentence-transformers/all-mpnet*",)):
        with pytest.raises(InvalidInputError, match="hub_models") as raised:
            Hub(patterns, offline=True).folder(MODEL, None)
        assert raised.value.code == "model-not-allowed"
    hub = Hub(("*",), offline=True)
    assert hub.folder(MODEL, None).name == COMMITS[0]
    with pytest.raises(JobFailedError, match="offline and has no copy"):
        hub.folder("timm/resnet18.a1_in1k", None)
    with pytest.raises(JobFailedError, match="at v9 cannot be loaded"):
        hub.folder(MODEL, "v9")
    for name in ("a b/c", "x/../y", "a//b", "-/-"):
        with pytest.raises((InvalidInputError, JobFailedError)):
            hub.folder(name, None)


def test_the_files_of_the_modules_are_downloaded_and_no_others() -> None:
    wanted = [
        "README.md",
        "modules.json",
        "config_sentence_transformers.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.model",
        "0_Transformer/model.safetensors",
        "0_Transformer/vocab.txt",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    ]
    others = [
        "modeling_code.py",
        "pytorch_model.bin",
        "2_Dense/pytorch_model.bin",
        "onnx/config.json",
        "openvino/openvino_model.json",
        "1_Pooling/nested/config.json",
    ]
    names = filter_repo_objects(
        wanted + others, allow_patterns=list(FILES), ignore_patterns=list(IGNORED)
    )
    assert list(names) == wanted
