"""Towers of texts and images, encoders, decoders and image models of transformers."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import sentencepiece
import torch
import transformers
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from transformers import AutoImageProcessor, AutoTokenizer, ViTImageProcessor

from stitchwork.resources import Floats
from tests.integration.parity.cases import (
    IMAGES,
    TEXTS,
    Case,
    HeadReference,
    Reference,
    spread_logits,
)
from tests.support.text_models import VOCABULARY, save_tokenizer
from tests.support.tower_models import (
    IMAGE_SIDE,
    SMALL,
    VISION,
    randomize,
    save_clip,
    save_siglip,
    save_siglip2,
    sentence_pieces,
    siglip2_tokenizer,
)

PICTURES: Final = [Image.open(io.BytesIO(data)).convert("RGB") for data in IMAGES]
LABELS: Final = {0: "cat", 1: "dog", 2: "fox"}
VISION_KIND: Final = "transformers-vision"
TOWERS: Final[dict[str, Callable[[Path], Any]]] = {
    "clip": save_clip,
    "siglip": save_siglip,
    "siglip2": lambda folder: save_siglip2(folder, siglip2_tokenizer("right")),
}
SWIN: Final = {
    "image_size": IMAGE_SIDE,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
CONVOLUTIONS: Final = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
REGISTERS: Final = {**VISION, "num_register_tokens": 2}
POOLED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "vit": ("ViTModel", VISION),
    "dinov2": ("Dinov2Model", VISION),
    "dinov2-registers": ("Dinov2WithRegistersModel", REGISTERS),
    "dinov3-vit": ("DINOv3ViTModel", REGISTERS),
    "swin": ("SwinModel", SWIN),
    "convnext": ("ConvNextModel", CONVOLUTIONS),
}
CLASSIFIER_MODELS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "vit": ("ViTForImageClassification", VISION),
    "dinov2": ("Dinov2ForImageClassification", VISION),
    "swin": ("SwinForImageClassification", SWIN),
    "convnext": ("ConvNextForImageClassification", CONVOLUTIONS),
}
T5: Final = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
DECODER: Final = {
    **SMALL,
    "vocab_size": len(VOCABULARY),
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
BART: Final = {
    "vocab_size": len(VOCABULARY),
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 3,
    "forced_eos_token_id": 3,
}


def build(name: str, **fields: Any) -> Any:
    """A model of transformers with random weights."""
    model_class = getattr(transformers, name)
    return randomize(model_class(model_class.config_class(**fields)))


@torch.inference_mode()
def text_tower(save: Callable[[Path], Any], folder: Path) -> Reference:
    """The features of texts, padded to the maximum length as the models were trained."""
    model = save(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    fields = tokenizer(list(TEXTS), padding="max_length", return_tensors="pt")
    rows = model.get_text_features(**fields).pooler_output.numpy()
    return Reference(rows, record={"pooling": "projection", "normalize": False})


@torch.inference_mode()
def image_tower(save: Callable[[Path], Any], folder: Path) -> Reference:
    """The features of images."""
    model = save(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    fields = processor(images=PICTURES, return_tensors="pt")
    rows = model.get_image_features(**fields).pooler_output.numpy()
    mean = [float(value) for value in processor.image_mean]
    return Reference(rows, record={"pooling": "projection", "mean": mean})


def sentence_transformers_clip(inputs: Any, folder: Path) -> Reference:
    """Either tower in a folder of sentence-transformers."""
    save_clip(folder / "clip")
    modules = [Transformer(str(folder / "clip")), Dense(24, 8), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu").eval()
    model.save(str(folder))
    return Reference(model.encode(list(inputs)), record={"normalize": True, "modules": ["Dense"]})


def means(folder: Path, model: Any) -> Floats:
    """The mean (n, d) of the last hidden states of each text, alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        outputs = [model(**tokenizer(text, return_tensors="pt")) for text in TEXTS]
    rows: Floats = torch.cat([out.last_hidden_state.mean(dim=1) for out in outputs]).numpy()
    return rows


def save_t5(folder: Path) -> Any:
    """Write a T5 encoder whose tokenizer is a sentencepiece model alone."""
    tokens = len(sentencepiece.SentencePieceProcessor(str(sentence_pieces(folder))))
    model = build("T5EncoderModel", **T5, vocab_size=tokens, pad_token_id=0)
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 96}'
    )
    return model


def t5(folder: Path) -> Reference:
    return Reference(means(folder, save_t5(folder)), record={"max_length": 96})


def sentence_t5(folder: Path) -> Reference:
    save_t5(folder / "t5")
    dense = Dense(32, 24, bias=False, activation_function=torch.nn.Identity())
    modules = [Transformer(str(folder / "t5")), Pooling(32), dense, Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu").eval()
    model.save(str(folder))
    return Reference(model.encode(list(TEXTS)), record={"modules": ["Dense"], "normalize": True})


def bart(folder: Path) -> Reference:
    model = build("BartForConditionalGeneration", **BART)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return Reference(means(folder, model.get_encoder()))


def decoder(folder: Path) -> Reference:
    """A decoder of half-precision weights, an instruction before each query, and its last token."""
    build("Qwen3ForCausalLM", **DECODER).to(torch.bfloat16).save_pretrained(folder / "qwen")
    save_tokenizer(folder / "qwen")
    modules = [Transformer(str(folder / "qwen")), Pooling(32, "lasttoken"), Normalize()]
    prompts = {"query": "Instruct: find a word\nQuery: "}
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts).float().eval()
    model.save(str(folder))
    rows = model.encode(list(TEXTS), prompt_name="query")
    return Reference(rows, {"prompt_name": "query"}, record={"pooling": "last"})


def cut(folder: Path) -> Reference:
    """A model whose files cut its embeddings."""
    build("BertModel", **SMALL, vocab_size=len(VOCABULARY)).save_pretrained(folder / "bert")
    save_tokenizer(folder / "bert")
    modules = [Transformer(str(folder / "bert")), Pooling(32)]
    model = SentenceTransformer(modules=modules, device="cpu", truncate_dim=12).eval()
    model.save(str(folder))
    record = {"dimensions": 12, "matryoshka": True}
    return Reference(model.encode(list(TEXTS)), record=record)


def save_image_model(folder: Path, name: str, fields: dict[str, Any]) -> Any:
    """Write an image model and its processor."""
    model = build(name, **fields)
    model.save_pretrained(folder)
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    ViTImageProcessor(size=side).save_pretrained(folder)
    return model


def passes(folder: Path, model: Any) -> list[Any]:
    """The library's output for each image alone."""
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        return [model(**processor(images=image, return_tensors="pt")) for image in PICTURES]


def pooled_image(name: str, folder: Path) -> Reference:
    model = save_image_model(folder, *POOLED[name])
    rows = [output.pooler_output.flatten(1) for output in passes(folder, model)]
    return Reference(torch.cat(rows).numpy(), record={"pooling": "pooler"})


def image_classifier(name: str, folder: Path) -> Reference:
    class_name, fields = CLASSIFIER_MODELS[name]
    model = save_image_model(folder, class_name, {**fields, "id2label": LABELS})
    spread_logits(model.classifier, lambda: passes(folder, model))
    model.save_pretrained(folder)
    inputs: list[torch.Tensor] = []
    handle = model.classifier.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    logits = torch.cat([output.logits for output in passes(folder, model)])
    handle.remove()
    labels = [LABELS[i] for i in logits.argmax(dim=1).tolist()]
    head = HeadReference(labels, np.asarray(logits.softmax(dim=1)), list(LABELS.values()))
    record = {"pooling": "classifier"}
    rows = torch.cat(inputs).numpy()
    return Reference(rows, record=record, head=head, label_names=head.classes)


CLASSIFIERS: Final = tuple(
    Case(f"{name}-image-classifier", partial(image_classifier, name), VISION_KIND)
    for name in CLASSIFIER_MODELS
)
CASES: Final = (
    *(Case(f"{name}-text", partial(text_tower, save)) for name, save in TOWERS.items()),
    *(
        Case(f"{name}-image", partial(image_tower, save), VISION_KIND)
        for name, save in TOWERS.items()
    ),
    Case("st-clip-text", partial(sentence_transformers_clip, TEXTS)),
    Case("st-clip-image", partial(sentence_transformers_clip, PICTURES), VISION_KIND),
    Case("t5-sentencepiece", t5),
    Case("sentence-t5", sentence_t5),
    Case("bart-encoder", bart),
    Case("qwen3-last-token", decoder),
    Case("matryoshka", cut),
    *(Case(f"{name}-pooled", partial(pooled_image, name), VISION_KIND) for name in POOLED),
    *CLASSIFIERS,
)
