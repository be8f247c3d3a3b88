"""Compares the heads of text classifiers with transformers for every architecture that has one.

`python -m tests.support.text_classifier_sweep --date 2026-11-30` writes the table of the
documentation anew. Each architecture is saved with a small config and random weights, its
classifier is extracted, and the logits of its embeddings are compared with the whole model's.
"""

import argparse
import collections
import multiprocessing
import signal
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from stitchwork.errors import StitchworkError
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.resources import TextEncoder, TokenPooling

PATH: Final = Path(__file__).parents[2] / "docs" / "operations" / "transformers-classifiers.md"
EQUAL, REFUSED, DIFFERENT = "equal (computed)", "refused", "different"
NOT_BUILT: Final = "not built"
MAX_DIFFERENCE: Final = 1e-4
"""Of a logit, relative to the largest one or 1."""
POOLINGS: Final[tuple[TokenPooling, ...]] = ("cls", "last", "mean")
SECONDS: Final = 120
PROCESSES: Final = 2
MAX_PARAMETERS: Final = 60_000_000
TEXTS: Final = (
    "a",
    "The train to the coast was late again, and nobody could say why.",
    "Which of the two accounts was charged twice?",
)
LABELS: Final = {0: "no", 1: "yes", 2: "maybe"}
WIDTH: Final = 32
SIZES: Final[dict[str, Any]] = {
    **dict.fromkeys(
        (
            *("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"),
            *("word_embed_proj_dim", "true_hidden_size"),
        ),
        WIDTH,
    ),
    **dict.fromkeys(
        (
            *("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_inner"),
            *("hidden_dim", "n_inner", "d_ff", "moe_intermediate_size", "dff"),
            *("shared_expert_intermediate_size", "mlp_dim", "ffn_hidden_size"),
        ),
        64,
    ),
    **dict.fromkeys(
        (
            *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"),
            *("decoder_layers", "num_decoder_layers", "block_count"),
        ),
        2,
    ),
    **dict.fromkeys(
        (
            *("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"),
            *("decoder_attention_heads", "num_key_value_heads", "num_kv_heads"),
        ),
        2,
    ),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "kv_channels"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "top_k"), 2),
    "vocab_size": 30522,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "max_source_positions": 128,
    "max_target_positions": 128,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
    "cls_token_id": 101,
    "sep_token_id": 102,
}
"""Fields of small configs; each is set where a config has it."""
LATENT_ATTENTION: Final[dict[str, Any]] = {
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "head_dim"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("n_group", "topk_group"), 1),
}
SPECIAL: Final[dict[str, dict[str, Any]]] = {
    "axk1": LATENT_ATTENTION,
    "deepseek_v3": LATENT_ATTENTION,
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "lilt": {"hidden_size": 48},
    "t5": {"decoder_start_token_id": 0},
    "zamba": {"layers_block_type": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": WIDTH},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "longformer": {"attention_window": 8},
    "mobilebert": {
        "hidden_size": WIDTH,
        "embedding_size": WIDTH,
        "true_hidden_size": WIDTH,
        "intra_bottleneck_size": WIDTH,
    },
    "gptj": {"rotary_dim": 8},
    "big_bird": {"attention_type": "original_full"},
    "phi": {"partial_rotary_factor": 0.5},
    "squeezebert": {
        "q_groups": 2,
        "k_groups": 2,
        "v_groups": 2,
        "intermediate_groups": 2,
        "output_groups": 2,
    },
    "xlm": {"n_langs": 1, "use_lang_emb": False},
    "flaubert": {"n_langs": 1},
    "xmod": {"default_language": "en_XX"},
    "reformer": {
        "attn_layers": ["local", "local"],
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 8,
    },
    "convbert": {"embedding_size": WIDTH, "head_ratio": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
}
"""Further fields of the configs of single architectures, by model type."""


class Row(NamedTuple):
    """The result for one architecture.

    Attributes:
        name: The model type.
        model: The class of the classifier.
        outcome: How its logits compare with transformers'.
        pooling: The pooling that its encoder needs.
        layers: The kinds of its layers.
        detail: Why it is refused, or how it differs.
    """

    name: str
    model: str
    outcome: str
    pooling: str = ""
    layers: str = ""
    detail: str = ""


def architectures() -> list[str]:
    """The model type of every text classifier of transformers."""
    return sorted(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)


def small_config(name: str) -> Any:
    """A small config of a model type."""
    config = AutoConfig.for_model(name)
    special = SPECIAL.get(name, {})
    fields = {**_small_fields(config.to_dict()), **special}
    labels = {"id2label": LABELS, "label2id": {label: i for i, label in LABELS.items()}}
    return type(config)(**{**fields, **labels})


def _small_fields(known: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config with small sizes, and those of the configs in it."""
    fields = {key: value for key, value in SIZES.items() if key in known}
    for key, value in known.items():
        if isinstance(value, Mapping) and ("hidden_size" in value or "vocab_size" in value):
            fields[key] = {**value, **_small_fields(value)}
    if isinstance(known.get("layer_types"), list):
        types = known["layer_types"]
        fields["layer_types"] = [types[0], types[-1]]
    return fields


def save(name: str, folder: Path) -> Any:
    """Save a small classifier of random weights, and a tokenizer."""
    torch.manual_seed(0)
    config = small_config(name)
    with torch.device("meta"):
        size = AutoModelForSequenceClassification.from_config(config).num_parameters()
    if size > MAX_PARAMETERS:
        raise ValueError(f"its small config has {size:,} parameters")
    model = AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    model.save_pretrained(folder)
    names = ["input_ids", "attention_mask"]
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder(), model_input_names=names)
    tokenizer.save_pretrained(folder)
    return model


def compute(name: str) -> Row:
    """Compare one architecture, within a time limit."""
    row = Row(name, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[name], NOT_BUILT)
    signal.alarm(SECONDS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            try:
                model = save(name, Path(folder))
                expected = _logits(Path(folder), model)
            except Exception as error:  # noqa: BLE001 whatever the library raises
                return row._replace(detail=f"{type(error).__name__}: {_first_line(error)}")
            return _compare(row, Path(folder), expected)
    except TimeoutError:
        return row._replace(detail=f"not built within {SECONDS} seconds")
    finally:
        signal.alarm(0)


def _logits(folder: Path, model: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        rows = [model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]
    return torch.cat(rows).float().numpy()


def _compare(row: Row, folder: Path, expected: Any) -> Row:
    encoders = EncoderCache("cpu", [folder], offline=True, compile_models=False)
    messages: list[str] = []
    for pooling in POOLINGS:
        spec = TextEncoder(model=str(folder), pooling=pooling)
        try:
            head = encoders.classifier(spec).head
            loaded = encoders.get(spec)
            rows = loaded.batcher.embed(loaded.encoder.prepare(TEXTS), 8).numpy()
        except StitchworkError as error:
            messages.append(error.message.replace(str(folder), row.name))
            if "expects an encoder with pooling" not in error.message:
                break
            continue
        classifier = head.define({}).classifier
        difference = np.abs(classifier.logits(rows) - expected).max() / max(
            1.0, np.abs(expected).max()
        )
        row = row._replace(
            pooling=pooling, layers=", ".join(layer.kind for layer in classifier.layers)
        )
        if difference <= MAX_DIFFERENCE:
            return row._replace(outcome=EQUAL)
        return row._replace(outcome=DIFFERENT, detail=f"by {difference:.3g} of the largest logit")
    return row._replace(outcome=REFUSED, detail=messages[-1])


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:159] + "…"


def _start(_: Any = None) -> None:
    torch.set_num_threads(1)

    def expire(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expire)


def sweep(names: Sequence[str]) -> list[Row]:
    """The results of architectures."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES, _start) as pool:
        return pool.map(compute, names, 1)


def table(rows: Sequence[Row], date: str) -> str:
    """The results as Markdown."""
    counts = collections.Counter(row.outcome for row in rows)
    different = [row for row in rows if row.outcome == DIFFERENT]
    others = [row for row in rows if row.outcome in (REFUSED, NOT_BUILT)]
    return "\n".join(
        [
            "# Text classifiers of transformers",
            "",
            f'How `"classifier": true` works with the architectures that transformers '
            f"{transformers.__version__} has for sequence classification, as of {date}; written by "
            "`python -m tests.support.text_classifier_sweep`.",
            "",
            "- **equal (computed)**: saved by transformers with a small config and random weights; "
            "the logits of the head on the encoder's embeddings equal those of the whole model "
            f"within {MAX_DIFFERENCE:g} of the largest one;",
            "- **refused**: the registration fails with the message below;",
            "- **not built**: transformers itself does not run the small config on texts, for the "
            "reason below.",
            "",
            *_markdown(("Logits", "Architectures"), [(k, counts[k]) for k in sorted(counts)]),
            "",
            f"Silently different: {len(different)}.",
            "",
            "## Equal",
            "",
            "The encoder must have the pooling that is named.",
            "",
            *_markdown(
                ("Architecture", "Class", "Pooling", "Layers"),
                [
                    (row.name, row.model, row.pooling, row.layers)
                    for row in rows
                    if row.outcome == EQUAL
                ],
            ),
            "",
            "## Refused or not built",
            "",
            *_markdown(
                ("Architecture", "Class", "Result", "Words"),
                [(row.name, row.model, row.outcome, row.detail) for row in others],
            ),
            "",
        ]
    )


def _markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    ]


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True, help="Date that the table names.")
    parser.add_argument("--output", type=Path, default=PATH)
    options = parser.parse_args()
    options.output.write_text(table(sweep(architectures()), options.date))


if __name__ == "__main__":
    main()
