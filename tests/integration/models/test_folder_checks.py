"""Folders that cannot be loaded as they are: each is refused in a sentence that names the cause."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from stitchwork.errors import ErrorCode, StitchworkError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import TextEncoder, VisionEncoder
from tests.support.tower_models import SMALL, sentence_pieces

pytestmark = pytest.mark.models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a small BERT with random weights."""
    BertModel(BertConfig(**SMALL, vocab_size=30522)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def errors_of(folder: Path) -> set[str]:
    """The messages of a registration, and of loading the model."""
    spec = TextEncoder(model=str(folder))
    resolved = {"pooling": "mean", "normalize": False, "lower_case": False, "prompt": ""}
    resolved |= {"modules": (), "matryoshka": False, "max_length": 16, "prompts": {}}
    encoders = EncoderCache("cpu", [folder], offline=True)
    messages = set()
    for attempt in (
        lambda: encoders.pin(spec),
        lambda: encoders.get(spec),
        lambda: encoders.get(spec.model_copy(update=resolved)),
    ):
        with pytest.raises(StitchworkError) as raised:
            attempt()
        assert raised.value.code == ErrorCode.LOAD_FAILED
        messages.add(raised.value.message)
    return messages


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def as_gguf(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    (folder / "model-q4.gguf").write_bytes(b"GGUF")


def as_adapter(folder: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))


def quantised(method: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        change_config(folder, quantization_config={"quant_method": method, "bits": 4})

    return change


def with_code(folder: Path) -> None:
    change_config(folder, model_type="my-bert", auto_map={"AutoModel": "code.Model"})


def of_a_later_release(folder: Path) -> None:
    change_config(folder, model_type="bert9", transformers_version="99.1.0")


def with_an_activation_of_a_later_release(folder: Path) -> None:
    change_config(folder, hidden_act="gelu_of_2030", transformers_version="99.1.0")


def of_timm(folder: Path) -> None:
    (folder / "config.json").write_text('{"architecture": "resnet18"}')


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (as_pickle, "safetensors files, got only pytorch_model.bin. Pickles are never read"),
        (as_gguf, "model-q4.gguf is in the GGUF format, expected safetensors files"),
        (as_adapter, "is an adapter for org/base"),
        (quantised("bitsandbytes"), "its weights are quantised (bitsandbytes)"),
        (quantised("gptq"), "its weights are quantised (gptq)"),
        (quantised("awq"), "its weights are quantised (awq)"),
        (with_code, "contains code, which is never run, and transformers has no my-bert model"),
        (of_a_later_release, "has no architecture 'bert9'; the model was saved by the later rel"),
        (with_an_activation_of_a_later_release, "saved by the later release 99.1.0: install"),
        (of_timm, "it is a model of timm (resnet18): use an encoder of kind timm"),
        (without_config, "expected a folder with a file config.json"),
        (without_tokenizer, "has no tokenizer: expected a file of tokenizer.json"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_refused_with_its_cause(
    folder: Path, change: Callable[[Path], None], cause: str
) -> None:
    change(folder)
    for message in errors_of(folder):
        assert str(folder) in message
        assert cause in message


def test_a_tokenizer_without_sentencepiece_is_refused_with_its_cause(tmp_path: Path) -> None:
    BertModel(BertConfig(**SMALL, vocab_size=200)).save_pretrained(tmp_path)
    sentence_pieces(tmp_path)
    config = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 16}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    code = (
        "import sys; sys.modules['sentencepiece'] = None\n"
        "from pathlib import Path\n"
        "from stitchwork.models.encoder_cache import EncoderCache\n"
        "from stitchwork.resources import TextEncoder\n"
        f"folder = {str(tmp_path)!r}\n"
        "try:\n"
        "    EncoderCache('cpu', [Path(folder)], offline=True).get(TextEncoder(model=folder))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.startswith("JobFailedError"), result
    assert "sentencepiece" in result.stdout.lower()


def test_a_model_of_texts_is_refused_for_images(folder: Path) -> None:
    spec = VisionEncoder(model=str(folder))
    with pytest.raises(StitchworkError, match=r"no image processor: expected a file preproc"):
        EncoderCache("cpu", [folder], offline=True).pin(spec)
    as_pickle(folder)
    with pytest.raises(StitchworkError, match=r"got only pytorch_model\.bin"):
        EncoderCache("cpu", [folder], offline=True).pin(spec)
