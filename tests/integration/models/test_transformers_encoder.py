"""Text encoders: equality with plain transformers, limits, and refused models."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)

from stitchwork.errors import InvalidInputError, JobFailedError
from stitchwork.models.batching import Batcher
from stitchwork.models.encoder import PreparedInputs
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.models.parity import check_rows, reference_rows
from stitchwork.models.pooling import pool
from stitchwork.models.transformers_encoder import TransformersEncoder
from stitchwork.resources import TextEncoder

pytestmark = pytest.mark.models

TEXTS = ["a", "a much longer text, which is padded far less than the others", "two words"] * 3
CPU = torch.device("cpu")


def encoder(**spec: object) -> TransformersEncoder:
    fields = {"model": str(minilm_folder()), **spec}
    return TransformersEncoder(TextEncoder.model_validate(fields), CPU, minilm_folder())


@pytest.fixture(scope="module")
def minilm() -> TransformersEncoder:
    return encoder()


def plain_embedding(text: str, layer: int, pooling: str) -> torch.Tensor:
    """One text through plain transformers, without batch or padding."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModel.from_pretrained(minilm_folder()).eval()
    with torch.inference_mode():
        hidden = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    rows = hidden.hidden_states[layer][0]
    row: torch.Tensor = {"mean": rows.mean(0), "cls": rows[0], "last": rows[-1]}[pooling]
    return row


@pytest.mark.parametrize(
    ("layer", "pooling"), [(-1, "mean"), (-1, "cls"), (3, "last"), (0, "mean")]
)
def test_embeddings_equal_those_of_plain_transformers(layer: int, pooling: str) -> None:
    model = encoder(layer=layer, pooling=pooling, normalize=False)
    rows = Batcher(model).embed(model.prepare(TEXTS), 2)
    expected = torch.stack([plain_embedding(text, layer, pooling) for text in TEXTS[:3]])
    torch.testing.assert_close(rows[:3], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows[3:6], rows[:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("items_per_batch", [1, 4, 64])
def test_the_batch_size_does_not_change_rows(
    minilm: TransformersEncoder, items_per_batch: int
) -> None:
    parts = [minilm.prepare([text]) for text in TEXTS]
    rows = Batcher(minilm).embed(PreparedInputs.concatenate(parts), items_per_batch)
    torch.testing.assert_close(
        rows, Batcher(minilm).embed(minilm.prepare(TEXTS), 5), rtol=1e-4, atol=1e-5
    )


def test_progress_is_reported_for_each_text_that_is_cut(minilm: TransformersEncoder) -> None:
    reports = list[int]()
    texts = ["several words " * 4_000] * 8
    prepared = minilm.prepare(texts, truncate=True, progress=lambda: reports.append(1))
    assert prepared.truncated == tuple(range(8))
    assert len(reports) >= 8


def test_normalize_gives_unit_rows() -> None:
    model = encoder(normalize=True)
    rows = Batcher(model).embed(model.prepare(TEXTS), 8)
    torch.testing.assert_close(torch.linalg.vector_norm(rows, dim=1), torch.ones(len(TEXTS)))


def test_padding_has_no_effect_on_pooling() -> None:
    hidden = torch.randn(2, 5, 3)
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    lengths = torch.tensor([3, 5])
    changed = hidden.clone()
    changed[0, 3:] = 99.0
    for how in ("mean", "cls", "last"):
        torch.testing.assert_close(
            pool(hidden, mask, lengths, how), pool(changed, mask, lengths, how)
        )


def test_texts_that_are_too_long_are_refused_or_truncated(minilm: TransformersEncoder) -> None:
    with pytest.raises(InvalidInputError, match=r"at most 256 tokens for .*, got 602") as raised:
        minilm.prepare(["ok", "word " * 600])
    assert raised.value.pointer == "/items/1"
    with pytest.raises(InvalidInputError, match="10000000 characters"):
        minilm.prepare(["x" * 10_000_000])
    cut = minilm.prepare(["ok", "word " * 600], truncate=True)
    assert cut.truncated == (1,)
    assert len(cut.inputs[1]) == 256
    assert encoder(max_length=16, truncate=True).prepare(["word " * 60]).truncated == (0,)


def test_the_lower_of_two_limits_applies() -> None:
    fields = {"model": str(minilm_folder()), "max_length": 128}
    spec = TextEncoder.model_validate(fields)
    capped = TransformersEncoder(spec, CPU, minilm_folder(), 20)
    with pytest.raises(InvalidInputError, match=r"at most 20 tokens \(max_text_tokens\), got 42"):
        capped.prepare(["word " * 40])
    with pytest.raises(
        InvalidInputError, match=r"\(max_text_tokens\), got a text of 5000 characters"
    ):
        capped.prepare(["x" * 5000])
    assert len(capped.prepare(["word " * 40], truncate=True).inputs[0]) == 20
    own = TransformersEncoder(spec, CPU, minilm_folder(), 200)
    with pytest.raises(InvalidInputError, match=r"at most 128 tokens for .*, got 202"):
        own.prepare(["word " * 200])


@pytest.mark.parametrize("text", ["", "  \n", "\0"])
def test_empty_texts_are_refused(minilm: TransformersEncoder, text: str) -> None:
    if text == "\0":
        assert minilm.prepare([text]).inputs
        return
    with pytest.raises(InvalidInputError, match="not empty"):
        minilm.prepare([text])


@pytest.mark.parametrize("max_length", [2, 513])
def test_a_max_length_outside_the_range_of_the_model_is_refused(max_length: int) -> None:
    with pytest.raises(InvalidInputError, match="3 to 512 tokens"):
        encoder(max_length=max_length)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with a tiny random BERT classifier as safetensors."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label={0: "no", 1: "yes", 2: "maybe"},
        label2id={"no": 0, "yes": 1, "maybe": 2},
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    return tmp_path


def test_an_extracted_classifier_scores_as_the_model_does(tiny: Path) -> None:
    encoders = EncoderCache("cpu", [tiny], offline=True)
    spec = TextEncoder(model=str(tiny), pooling="cls")
    head = encoders.classifier(spec).head.define({})
    loaded = encoders.get(spec)
    rows = loaded.batcher.embed(loaded.encoder.prepare(TEXTS[:3]), 8).numpy()
    model = BertForSequenceClassification.from_pretrained(tiny).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    with torch.inference_mode():
        logits = [model(**tokenizer(t, return_tensors="pt")).logits[0] for t in TEXTS[:3]]
    assert head.labels == ("no", "yes", "maybe")
    torch.testing.assert_close(
        torch.from_numpy(head.classifier.logits(rows)), torch.stack(logits), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(InvalidInputError, match="pooling cls"):
        encoders.classifier(TextEncoder(model=str(tiny), pooling="mean"))


def test_a_model_with_eager_attention_only_is_loaded(tiny: Path) -> None:
    torch.manual_seed(0)
    model = MPNetModel(
        MPNetConfig(
            vocab_size=30527,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            attn_implementation="eager",
        )
    ).eval()
    model.save_pretrained(tiny)
    loaded = EncoderCache("cpu", [tiny], offline=True).get(
        TextEncoder(model=str(tiny), pooling="cls")
    )
    rows = loaded.batcher.embed(loaded.encoder.prepare(TEXTS[:3]), 8)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    with torch.inference_mode():
        token_ids = [tokenizer(text, return_tensors="pt")["input_ids"] for text in TEXTS[:3]]
        expected = [model(input_ids=ids).last_hidden_state[0, 0] for ids in token_ids]
    torch.testing.assert_close(rows, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_code_and_pickles_of_models_are_not_run(tiny: Path) -> None:
    marker = tiny / "ran"
    (tiny / "code.py").write_text(f"open({str(marker)!r}, 'w')\nclass Model: pass\n")
    config = (tiny / "config.json").read_text()
    with_code = config.replace("{", '{"auto_map": {"AutoModel": "code.Model"},', 1)
    (tiny / "config.json").write_text(with_code.replace('"bert"', '"my-bert"'))
    with pytest.raises(JobFailedError, match="contains code, which is never run, and transf"):
        EncoderCache("cpu", [tiny], offline=True).get(TextEncoder(model=str(tiny)))
    (tiny / "config.json").write_text(config)
    weights = tiny / "model.safetensors"
    weights.rename(tiny / "pytorch_model.bin")
    with pytest.raises(JobFailedError, match="cannot be loaded"):
        EncoderCache("cpu", [tiny], offline=True).get(TextEncoder(model=str(tiny)))
    assert not marker.exists()


def test_code_that_an_architecture_of_transformers_does_not_need_is_not_run(tiny: Path) -> None:
    encoders = EncoderCache("cpu", [tiny], offline=True, compile_models=False)
    spec = TextEncoder(model=str(tiny))
    loaded = encoders.get(spec)
    expected = loaded.batcher.embed(loaded.encoder.prepare(TEXTS), 8)
    marker = tiny / "ran"
    (tiny / "code.py").write_text(f"open({str(marker)!r}, 'w')\nclass Model: pass\n")
    config = (tiny / "config.json").read_text()
    code = {"AutoConfig": "code.Model", "AutoModel": "code.Model"}
    (tiny / "config.json").write_text(json.dumps({**json.loads(config), "auto_map": code}))
    loaded = EncoderCache("cpu", [tiny], offline=True, compile_models=False).get(spec)
    rows = loaded.batcher.embed(loaded.encoder.prepare(TEXTS), 8)
    torch.testing.assert_close(rows, expected)
    assert not marker.exists()


def test_the_longest_text_of_a_model_with_a_position_offset_is_embedded(tiny: Path) -> None:
    torch.manual_seed(0)
    model = RobertaModel(
        RobertaConfig(
            vocab_size=30522,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=514,
            pad_token_id=1,
        )
    ).eval()
    model.save_pretrained(tiny)
    AutoTokenizer.from_pretrained(minilm_folder(), model_max_length=514).save_pretrained(tiny)
    encoders = EncoderCache("cpu", [tiny], offline=True, compile_models=False)
    spec = encoders.pin(TextEncoder(model=str(tiny), truncate=True))
    assert isinstance(spec, TextEncoder)
    assert spec.max_length == 512
    loaded = encoders.get(spec)
    prepared = loaded.encoder.prepare(["word " * 511])
    assert prepared.truncated == (0,)
    with torch.inference_mode():
        expected = model(input_ids=prepared.inputs[0][None]).last_hidden_state.mean(dim=1)
    rows = loaded.batcher.embed(prepared, 1)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInputError, match="3 to 512 tokens"):
        encoders.get(TextEncoder(model=str(tiny), max_length=513))


def test_rows_that_differ_from_those_of_the_library_are_refused_with_the_difference() -> None:
    hidden = torch.randn(4, 8)
    expected = reference_rows([hidden], ("mean",), 0)
    check_rows("m", "transformers", hidden.mean(dim=0)[None], expected)
    with pytest.raises(JobFailedError, match=r"m cannot be used .* differ by 1"):
        check_rows("m", "transformers", 2 * hidden.mean(dim=0)[None], expected)


def test_only_allowed_folders_and_hub_models_are_loaded(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "link").symlink_to(tiny)
    encoders = EncoderCache("cpu", [root], offline=True)
    for model in (str(tiny), str(root / "link"), f"{root}/../{tiny.name}", "~", "/nowhere/at/all"):
        with pytest.raises(InvalidInputError, match="model_roots") as raised:
            encoders.get(TextEncoder(model=model))
        assert raised.value.code == "path-not-allowed"
    for model in ("no-such/hub-model", "not a hub id"):
        with pytest.raises(InvalidInputError, match="hub_models allows: none") as raised:
            encoders.get(TextEncoder(model=model))
        assert raised.value.code == "model-not-allowed"
