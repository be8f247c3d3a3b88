"""Small text models with random weights, as their library saves them."""

from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()

SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZàÀ0123456789.,:;?!'-_()\"/"
WORDS: Final = ("the", "was", "two", "which", "word", "and", "a", "of", "longer")
VOCABULARY: Final = (
    *SPECIAL_TOKENS,
    *CHARACTERS,
    *(f"##{character}" for character in CHARACTERS),
    *(word for word in WORDS if len(word) > 1),
)
BERT: Final[dict[str, Any]] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": 0,
}
"""Fields of the config of a small BERT, which many architectures share."""


def word_pieces(*, lower_case: bool = True) -> Tokenizer:
    """A WordPiece tokenizer with a vocabulary of characters and a few words."""
    tokenizer = Tokenizer(
        WordPiece({token: i for i, token in enumerate(VOCABULARY)}, unk_token=SPECIAL_TOKENS[1])
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, VOCABULARY.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def save_tokenizer(folder: Path, *, lower_case: bool = True, max_length: int = 128) -> None:
    """Write the files of `word_pieces` as transformers saves them."""
    PreTrainedTokenizerFast(
        tokenizer_object=word_pieces(lower_case=lower_case),
        model_max_length=max_length,
        **dict(
            zip(
                ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
                SPECIAL_TOKENS,
                strict=True,
            )
        ),
    ).save_pretrained(folder)


def random_text_model(model_class: Any, config: Any, **options: Any) -> Any:
    """A transformers model in evaluation mode, with weights that let its rows differ by text.

    Args:
        model_class: Its class.
        config: Its config.
        options: Further arguments of the class.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config, **options).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # The initial weights are so small that all texts have almost the same row.
                if parameter.ndim >= 2:
                    parameter.mul_(3)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def save_text_model(folder: Path, model_class: Any, config: Any, **options: Any) -> Any:
    """Write a random model and a tokenizer, and return the model."""
    model = random_text_model(model_class, config, **options)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model
