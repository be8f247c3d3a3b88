"""What a model's tokenizer makes of texts, and texts of the ids of its tokens."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from tokenizers import Tokenizer

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.resources import Item, TokenIds
from stitchwork.resources.prompts import Prompt

MAX_CHARACTERS: Final = 1 << 17
"""Characters of a text: each may become a token, which is described in about 60 bytes."""


class Tokenization:
    """The tokens of texts, as an encoder reads them.

    Args:
        model: Name of the model, for errors.
        tokenizer: A tokenizer of `transformers` or of `tokenizers`.
        cased: Converts a text as the encoder does before it is tokenised.
        select_prompt: The prompt of an input type.
        adds_special_tokens: Whether the model gets special tokens.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Any,
        cased: Callable[[str], str],
        select_prompt: Callable[[str | None], Prompt],
        *,
        adds_special_tokens: bool = True,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        is_backend = isinstance(tokenizer, Tokenizer)
        self._size = tokenizer.get_vocab_size() if is_backend else len(tokenizer)
        self._backend: Tokenizer | None = (
            tokenizer if is_backend else getattr(tokenizer, "backend_tokenizer", None)
        )
        self._cased = cased
        self._select_prompt = select_prompt
        self._adds_special_tokens = adds_special_tokens

    def tokens(
        self, items: Sequence[Item], *, input_type: str | None, special_tokens: bool
    ) -> list[list[dict[str, Any]]]:
        """The tokens of each text, with the prompt before it, however many they are.

        Args:
            items: Texts.
            input_type: Selects a prompt of the model; None takes the encoder's own.
            special_tokens: Whether the special tokens of the model are among them.

        Returns:
            Of each token its `id`, `text`, whether it is `special`, and where it starts and stops
            in the text with its prompt, in characters; None for special tokens, and if the
            tokenizer does not tell.

        Raises:
            InvalidInputError: If an item is no text or is too long, or no prompt fits.
        """
        prompt = self._select_prompt(input_type).text
        texts = [prompt + _check(item, f"/items/{i}") for i, item in enumerate(items)]
        adds = special_tokens and self._adds_special_tokens
        if self._backend is None:
            return [self._slow_tokens(self._cased(text), adds) for text in texts]
        self._backend.no_truncation()
        self._backend.no_padding()
        encodings = self._backend.encode_batch(
            [self._cased(text) for text in texts], add_special_tokens=adds
        )
        return [_fast_tokens(*pair) for pair in zip(texts, encodings, strict=True)]

    def texts(self, items: Sequence[Item], *, special_tokens: bool) -> list[str]:
        """The texts of token ids.

        Args:
            items: Token ids.
            special_tokens: Whether special tokens are a part of the texts.

        Raises:
            InvalidInputError: If an item is something else, or an id is not in the vocabulary.
        """
        texts = []
        for i, item in enumerate(items):
            pointer = f"/items/{i}"
            if not isinstance(item, TokenIds):
                raise InvalidInputError("expected token ids, got a text", pointer=pointer)
            ids = item.ids
            if max(ids) >= self._size:
                raise InvalidInputError(
                    f"expected token ids of {self._model}, which are less than {self._size}, got "
                    f"{max(ids)}",
                    pointer=pointer,
                    code=ErrorCode.TOKEN_IDS,
                )
            decode = (self._backend or self._tokenizer).decode
            texts.append(decode(ids, skip_special_tokens=not special_tokens))
        return texts

    def _slow_tokens(self, text: str, adds_special_tokens: bool) -> list[dict[str, Any]]:
        fields = self._tokenizer(
            text,
            add_special_tokens=adds_special_tokens,
            return_special_tokens_mask=True,
            verbose=False,
        )
        ids, mask = fields["input_ids"], fields["special_tokens_mask"]
        words = self._tokenizer.convert_ids_to_tokens(ids)
        return [
            _token(id_, word, bool(special), None)
            for id_, word, special in zip(ids, words, mask, strict=True)
        ]


def _fast_tokens(text: str, encoding: Any) -> list[dict[str, Any]]:
    columns = encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets
    return [
        _token(id_, word, True, None) if special else _token(id_, text[slice(*place)], False, place)
        for id_, word, special, place in zip(*columns, strict=True)
    ]


def _token(id_: int, text: str, special: bool, place: tuple[int, int] | None) -> dict[str, Any]:
    start, stop = place or (None, None)
    return {"id": id_, "text": text, "special": special, "start": start, "stop": stop}


def _check(item: Item, pointer: str) -> str:
    if not isinstance(item, str):
        raise InvalidInputError("expected a text, got token ids", pointer=pointer)
    if len(item) > MAX_CHARACTERS:
        raise InvalidInputError(
            f"expected a text of at most {MAX_CHARACTERS} characters, got {len(item)}",
            pointer=pointer,
            code=ErrorCode.TOO_MANY_TOKENS,
        )
    return item
