"""Folders that sentence-transformers saved: equal to its own `encode`, or refused by name."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    LSTM,
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel

from stitchwork.errors import InvalidInputError, JobFailedError
from stitchwork.models.encoder import PreparedInputs
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.models.static_encoder import StaticEncoder
from stitchwork.resources import Floats, TextEncoder
from stitchwork.worker.dtype_choice import choose_dtype

pytestmark = pytest.mark.models

TEXTS = ["A b", "a much Longer text, which is padded far less than the others", "two words"]
WIDTH = 32


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small BERT with random weights."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return folder


def save(folder: Path, modules: Sequence[Any], **options: Any) -> SentenceTransformer:
    """Save a model by its own library."""
    model = SentenceTransformer(modules=list(modules), device="cpu", **options).eval()
    model.save(str(folder))
    return model


def embed(folder: Path, texts: Sequence[str] = TEXTS, **fields: Any) -> Floats:
    encoders = EncoderCache("cpu", [folder], offline=True, compile_models=False)
    spec = encoders.pin(TextEncoder(model=str(folder), **fields))
    assert encoders.pin(spec) == spec
    loaded = encoders.get(spec)
    rows = loaded.batcher.embed(loaded.encoder.prepare(texts), 8).numpy()
    assert loaded.encoder.dim == rows.shape[1]
    return rows


def refusal(folder: Path, **fields: Any) -> str:
    with pytest.raises((JobFailedError, InvalidInputError)) as raised:
        embed(folder, **fields)
    return raised.value.message


def assert_equal(actual: Floats, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.mark.parametrize("mode", [*MODES, ("cls", "mean"), ("max", "lasttoken", "weightedmean")])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_pooling_modes_and_prompts_equal_those_of_the_library(
    transformer: Path, tmp_path: Path, mode: Any, include_prompt: bool
) -> None:
    model = save(
        tmp_path,
        [
            Transformer(str(transformer)),
            Pooling(WIDTH, mode, include_prompt=include_prompt),
        ],
        prompts={"query": "Find: ", "passage": ""},
        default_prompt_name="query",
    )
    assert_equal(embed(tmp_path), model.encode(TEXTS))
    assert_equal(embed(tmp_path, prompt_name="passage"), model.encode(TEXTS, prompt_name="passage"))
    assert_equal(embed(tmp_path, prompt="Say: "), model.encode(TEXTS, prompt="Say: "))


@pytest.mark.parametrize("mode", [*MODES, ("cls", "mean")])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_input_types_of_one_batch_equal_the_named_prompts_of_the_library(
    transformer: Path, tmp_path: Path, mode: Any, include_prompt: bool
) -> None:
    prompts = {"query": "Find the answer to: ", "passage": "Text: ", "STS": "", "my own": "x y z "}
    model = save(
        tmp_path,
        [Transformer(str(transformer)), Pooling(WIDTH, mode, include_prompt=include_prompt)],
        prompts=prompts,
        default_prompt_name="STS",
    )
    encoders = EncoderCache("cpu", [tmp_path], offline=True, compile_models=False)
    loaded = encoders.get(encoders.pin(TextEncoder(model=str(tmp_path))))
    input_types = {
        None: "STS",
        "search_query": "query",
        "retrieval.passage": "passage",
        "document": "passage",
        "text-matching": "STS",
        "my own": "my own",
    }
    parts = [loaded.encoder.prepare(TEXTS, input_type=name) for name in input_types]
    rows = loaded.batcher.embed(PreparedInputs.concatenate(parts), 8).numpy()
    expected = [model.encode(TEXTS, prompt_name=name) for name in input_types.values()]
    assert_equal(rows, np.concatenate(expected))
    assert [part.prompt_name for part in parts] == [None, *list(input_types.values())[1:]]


def test_prompts_of_the_request_add_to_those_of_the_model(
    transformer: Path, tmp_path: Path
) -> None:
    modules = [Transformer(str(transformer)), Pooling(WIDTH)]
    model = save(tmp_path, modules, prompts={"query": "q: ", "passage": "p: "})
    encoders = EncoderCache("cpu", [tmp_path], offline=True, compile_models=False)
    spec = encoders.pin(TextEncoder(model=str(tmp_path), prompts={"query": "Find: ", "code": "c "}))
    assert isinstance(spec, TextEncoder)
    assert spec.prompts == {"query": "Find: ", "document": "", "passage": "p: ", "code": "c "}
    assert encoders.pin(spec) == spec
    loaded = encoders.get(spec)
    for name, prompt in (("query", "Find: "), ("passage", "p: "), ("code", "c ")):
        rows = loaded.batcher.embed(loaded.encoder.prepare(TEXTS, input_type=name), 8).numpy()
        assert_equal(rows, model.encode(TEXTS, prompt=prompt))
    with pytest.raises(InvalidInputError, match="clustering") as raised:
        loaded.encoder.prepare(TEXTS, input_type="clustering")
    assert "document, passage, query, code" in raised.value.message
    assert raised.value.pointer == "/input_type"


def test_a_selected_prompt_that_leaves_no_token_for_a_text_is_refused(
    transformer: Path, tmp_path: Path
) -> None:
    modules = [Transformer(str(transformer), max_seq_length=16), Pooling(WIDTH)]
    save(tmp_path, modules, prompts={"query": "word " * 30})
    encoders = EncoderCache("cpu", [tmp_path], offline=True, compile_models=False)
    loaded = encoders.get(encoders.pin(TextEncoder(model=str(tmp_path))))
    assert loaded.encoder.prepare(["a b"]).inputs
    with pytest.raises(InvalidInputError, match="no token of a text would remain of 16"):
        loaded.encoder.prepare(["a b"], input_type="query")


def test_a_static_embedding_with_an_input_type_equals_that_of_the_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    static = StaticEmbedding(tokenizer, embedding_dim=24)
    model = save(tmp_path, [static], prompts={"query": "find this "})
    encoders = EncoderCache("cpu", [tmp_path], offline=True)
    loaded = encoders.get(encoders.pin(TextEncoder(model=str(tmp_path))))
    prepared = loaded.encoder.prepare(TEXTS, input_type="search_query")
    assert prepared.prompt_name == "query"
    rows = loaded.batcher.embed(prepared, 8).numpy()
    assert_equal(rows, model.encode(TEXTS, prompt_name="query"))


def test_the_modules_after_the_pooling_equal_those_of_the_library(
    transformer: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    norm = LayerNorm(16)
    torch.nn.init.normal_(norm.norm.weight)
    model = save(
        tmp_path,
        [
            Transformer(str(transformer)),
            Pooling(WIDTH, ("mean", "max")),
            Dense(2 * WIDTH, 16),
            Dropout(0.3),
            norm,
            Normalize(),
            Dense(16, 16, bias=False, activation_function=torch.nn.GELU(), use_residual=True),
            Dense(16, 8, activation_function=torch.nn.Identity(), use_residual=True),
            Normalize(),
        ],
    )
    rows = embed(tmp_path)
    assert rows.shape == (3, 8)
    assert_equal(rows, model.encode(TEXTS))
    assert_equal(np.linalg.norm(rows, axis=1), np.ones(3))


def test_a_static_embedding_equals_that_of_the_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    static = StaticEmbedding(tokenizer, embedding_dim=24)
    model = save(tmp_path, [static, Dense(24, 8), Normalize()])
    assert_equal(embed(tmp_path), model.encode(TEXTS))
    assert_equal(embed(tmp_path, prompt="x y "), model.encode(TEXTS, prompt="x y "))
    assert "only pooling mean" in refusal(tmp_path, pooling="cls")


def test_tokens_of_a_static_embedding_in_lower_case_are_at_their_places(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    save(tmp_path, [StaticEmbedding(tokenizer, embedding_dim=24)])
    spec = TextEncoder(model=str(tmp_path), lower_case=True)
    encoder = StaticEncoder(spec, torch.device("cpu"), tmp_path)
    # The first letter becomes two characters in lower case.
    text = "\u0130\u0130\u0130 RIVER bank"
    (tokens,) = encoder.tokenization.tokens([text], input_type=None, special_tokens=False)
    assert [token["text"] for token in tokens][-2:] == ["RIVER", "bank"]
    assert all(text[token["start"] : token["stop"]] == token["text"] for token in tokens)


def test_a_static_embedding_is_in_float32_whatever_the_worker_computes(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    save(tmp_path, [StaticEmbedding(tokenizer, embedding_dim=24)])
    half = TextEncoder(model=str(tmp_path), dtype="bfloat16")
    with pytest.raises(JobFailedError, match="expected dtype float32 or auto, got bfloat16"):
        StaticEncoder(half, torch.device("cpu"), tmp_path)
    encoders = EncoderCache("cpu", [tmp_path], offline=True)
    encoders.preferred_dtype = "bfloat16"
    automatic = half.model_copy(update={"dtype": "auto"})
    choice = choose_dtype(automatic, "auto", list, encoders, encoders.get, lambda: None)
    assert choice == (TextEncoder(model=str(tmp_path)), None)


@pytest.mark.parametrize(
    "change", [{"other": "x"}, {"embedding.weight": "module.embedding.weight"}]
)
def test_static_weights_that_are_missing_or_unexpected_are_named(
    tmp_path: Path, change: dict[str, str]
) -> None:
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    save(tmp_path, [StaticEmbedding(tokenizer, embedding_dim=4)])
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    ((before, after),) = change.items()
    tensors[after] = tensors.pop(before, torch.zeros(1))
    save_file(tensors, file)
    assert f"got {', '.join(sorted(tensors))}" in refusal(tmp_path)


def test_lower_case_and_maximum_length_are_followed(transformer: Path, tmp_path: Path) -> None:
    cased = tmp_path / "cased"
    shutil.copytree(transformer, cased)
    AutoTokenizer.from_pretrained(minilm_folder(), do_lower_case=False).save_pretrained(cased)
    module = Transformer(str(cased), max_seq_length=6)
    save(tmp_path / "st", [module, Pooling(WIDTH)])
    folder = tmp_path / "st"
    (folder / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 6, "do_lower_case": true}'
    )
    model = SentenceTransformer(str(folder), device="cpu")
    texts = ["ÀB Cd", "An uppercase TEXT of more than six tokens"]
    assert_equal(embed(folder, texts, truncate=True), model.encode(texts))
    spec = EncoderCache("cpu", [folder], offline=True).pin(TextEncoder(model=str(folder)))
    assert isinstance(spec, TextEncoder)
    assert (spec.max_length, spec.lower_case) == (6, True)
    plain = embed(folder, ["ÀB Cd"], lower_case=False)
    assert not np.allclose(plain, embed(folder, ["ÀB Cd"]))


def test_the_layout_with_a_folder_of_the_transformer_is_read(
    transformer: Path, tmp_path: Path
) -> None:
    shutil.copytree(transformer, tmp_path / "0_Transformer")
    (tmp_path / "0_Transformer" / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 128, "do_lower_case": false}'
    )
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": WIDTH,
                "pooling_mode_cls_token": True,
                "pooling_mode_mean_tokens": False,
                "pooling_mode_max_tokens": True,
                "pooling_mode_mean_sqrt_len_tokens": False,
            }
        )
    )
    (tmp_path / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": i,
                    "name": str(i),
                    "path": f"{i}_{name}",
                    "type": f"sentence_transformers.models.{name}",
                }
                for i, name in enumerate(("Transformer", "Pooling", "Normalize"))
            ]
        )
    )
    model = SentenceTransformer(str(tmp_path), device="cpu")
    assert_equal(embed(tmp_path), model.encode(TEXTS))


def test_minilm_without_any_parameter_equals_the_library() -> None:
    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    np.testing.assert_allclose(embed(minilm_folder()), model.encode(TEXTS), rtol=0, atol=1e-5)


def test_the_pinned_spec_names_what_is_in_force() -> None:
    encoders = EncoderCache("cpu", [minilm_folder()], offline=True)
    declared = TextEncoder(model=str(minilm_folder()))
    pinned = encoders.pin(declared)
    assert pinned.model_dump() == declared.model_dump() | {
        "pooling": "mean",
        "normalize": True,
        "max_length": 256,
        "prompt": "",
        "prompts": {},
        "lower_case": False,
        "modules": (),
        "matryoshka": False,
    }


def test_what_the_request_names_is_in_force(transformer: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = Dense(WIDTH, 8)
    model = save(
        tmp_path, [Transformer(str(transformer)), Pooling(WIDTH, "max"), dense, Normalize()]
    )
    mean = Pooling(WIDTH)
    unnormalised = SentenceTransformer(modules=[model[0], mean, dense], device="cpu")
    assert_equal(embed(tmp_path, pooling="mean", normalize=False), unnormalised.encode(TEXTS))
    plain = SentenceTransformer(modules=[model[0], mean], device="cpu")
    assert_equal(embed(tmp_path, pooling="mean", normalize=False, modules=()), plain.encode(TEXTS))
    assert "modules: expected ['Dense']" in refusal(tmp_path, modules=("LayerNorm",))
    message = refusal(tmp_path, pooling=("cls", "mean"))
    assert "2_Dense expects rows of 32 numbers, the pooling gives 64" in message


def test_an_unknown_prompt_name_is_refused_with_the_known_ones(
    transformer: Path, tmp_path: Path
) -> None:
    save(
        tmp_path,
        [Transformer(str(transformer)), Pooling(WIDTH)],
        prompts={"query": "q: ", "passage": "p: "},
    )
    assert "prompt_name: expected one of document, passage, query" in refusal(
        tmp_path, prompt_name="code"
    )
    assert "another prompt" in refusal(tmp_path, prompt_name="query", prompt="x: ")


def test_a_module_that_is_not_supported_is_named(transformer: Path, tmp_path: Path) -> None:
    save(tmp_path, [Transformer(str(transformer)), LSTM(WIDTH, 16), Pooling(32)])
    assert "its module LSTM is not supported" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("modules.json", {"type": "my.Pooling"}, "my.Pooling is code of its own"),
        ("modules.json", {"path": "../other"}, "outside of its folder"),
        ("1_Pooling/config.json", {"pooling_mode": "attention"}, "pooling attention is not"),
        ("2_Dense/config.json", {"activation_function": "my.act"}, "activation my.act of"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "of its module Dense"),
        ("2_Dense/config.json", {"out_features": 9}, "weights of its module 2_Dense"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "'fill-mask' of sent"),
        ("sentence_bert_config.json", {"query_expansion": {"a": 1}}, "query_expansion of sent"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "a SparseEncoder"),
        ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "default prompt 'x'"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    transformer: Path, tmp_path: Path, file: str, change: dict[str, Any], message: str
) -> None:
    save(tmp_path, [Transformer(str(transformer)), Pooling(WIDTH), Dense(WIDTH, 8)])
    config = json.loads((tmp_path / file).read_text())
    target = config[1] if isinstance(config, list) else config
    target.update(change)
    (tmp_path / file).write_text(json.dumps(config))
    assert message in refusal(tmp_path)


@pytest.mark.parametrize("file", ["1_Pooling/config.json", "2_Dense/model.safetensors"])
def test_a_missing_file_of_a_module_is_named(transformer: Path, tmp_path: Path, file: str) -> None:
    save(tmp_path, [Transformer(str(transformer)), Pooling(WIDTH), Dense(WIDTH, 8)])
    (tmp_path / file).unlink()
    assert f"{file}" in refusal(tmp_path)


def test_a_prompt_that_leaves_no_token_for_a_text_is_refused() -> None:
    rows = embed(minilm_folder(), prompt="word " * 30, max_length=33, truncate=True)
    assert rows.shape == (3, 384)
    message = refusal(minilm_folder(), prompt="word " * 30, max_length=32)
    assert "prompt: expected fewer than 32 tokens" in message
