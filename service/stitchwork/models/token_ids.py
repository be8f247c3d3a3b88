"""Checks that token ids which a client computed are of the model's own tokenizer.

Ids of another tokenizer, such as those that LangChain sends to OpenAI by default, are ids of other
words: nothing but the special tokens around them tells the two apart.
"""

from collections.abc import Sequence
from typing import Any, Final

from stitchwork.errors import ErrorCode, InvalidInputError

HINT: Final = "LangChain's OpenAIEmbeddings sends texts with check_embedding_ctx_length=False"
MAX_COMMON_ID: Final = 255
"""Largest id that is one byte in OpenAI's tokenizers, with which any text may begin or end."""


def unverifiable_tokens(model: str, pointer: str) -> InvalidInputError:
    """The error of token ids for a model that adds no special tokens by which to know them."""
    return InvalidInputError(
        f"expected a text, got token ids: the tokenizer of {model} adds no special tokens, by "
        f"which its ids could be told from those of another one; {HINT}",
        pointer=pointer,
        code=ErrorCode.TOKEN_IDS,
    )


class TokenIdCheck:
    """Checks and cuts token ids of one tokenizer.

    Args:
        tokenizer: The tokenizer.
        model: Name of the model, for errors.
    """

    def __init__(self, tokenizer: Any, model: str) -> None:
        self._model = model
        self._size = len(tokenizer)
        self._keeps_start = tokenizer.truncation_side == "right"
        fields = tokenizer("a", return_special_tokens_mask=True, verbose=False)
        ids, mask = fields["input_ids"], fields["special_tokens_mask"]
        first = mask.index(0) if 0 in mask else 0
        last = len(mask) - mask[::-1].index(0) if 0 in mask else 0
        self._start, self._end = ids[:first], ids[last:]

    def check(self, ids: Sequence[int], pointer: str) -> None:
        """Refuse ids that the tokenizer does not give for any text.

        Args:
            ids: The ids.
            pointer: Where they are, for errors.

        Raises:
            InvalidInputError: If the special tokens are not where the tokenizer puts them, there
                are no others, or an id is not in the vocabulary.
        """
        special = [*self._start, *self._end]
        if not special or (not (self._start and self._end) and max(special) <= MAX_COMMON_ID):
            raise unverifiable_tokens(self._model, pointer)
        count, ids = len(special), list(ids)
        body = ids[len(self._start) : len(ids) - len(self._end)]
        if len(ids) < count or [*self._start, *body, *self._end] != ids or max(ids) >= self._size:
            places = [
                f"{word} {', '.join(map(str, part))}"
                for word, part in (("begin with", self._start), ("end with", self._end))
                if part
            ]
            raise InvalidInputError(
                f"expected token ids by the tokenizer of {self._model}, which "
                f"{' and '.join(places)} and are less than {self._size}, got others, which mean "
                f"other words; {HINT}",
                pointer=pointer,
                code=ErrorCode.TOKEN_IDS,
            )
        if not body:
            raise InvalidInputError("expected a text that is not empty", pointer=pointer)

    def cut(self, ids: Sequence[int], limit: int) -> list[int]:
        """At most so many ids: those that the tokenizer keeps, between the special tokens."""
        if self._keeps_start:
            return [*ids[: limit - len(self._end)], *self._end]
        return [*self._start, *ids[len(ids) - limit + len(self._start) :]]
