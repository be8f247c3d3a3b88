"""Tokenises no more of a long text than its first tokens need.

A beginning of a text has the same first tokens as the text if it ends before a space, since
tokenizers split texts there or, as those of sentencepiece, begin pieces there. Some tokens more
than needed are computed, so that the last ones, which what follows might change, are not used.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

CHARACTERS_PER_TOKEN: Final = 16
"""Characters for each token that is kept that are tokenised at first; more if they do not do."""
SPARE_TOKENS: Final = 16
"""Tokens that a beginning has beyond those that are kept."""
MAX_CHARACTERS: Final = 1 << 16
"""Characters of several texts that are tokenised between two reports of progress."""
PROBE_TOKENS: Final = 64
PROBE: Final = (
    "The 2nd train to Zürich wasn't late again; nobody could say why, but it's 12,50 € more. "
    "東京の電車は遅れない。\n\tלמה הרכבת מאחרת?  (see  page 7)... "
) * 16
"""A text on which it is checked that the beginnings of texts may be tokenised alone."""

Tokenize = Callable[[list[str]], list[list[int]]]
"""Returns the token ids of each text."""


class TextCutter:
    """Tokenises texts, and of long ones a beginning that has more tokens than a limit.

    Args:
        tokenize: The tokenizer, without truncation.
        max_tokens: The limit, special tokens included.
        keeps_start: Whether the first tokens of a text are those that truncation keeps.
    """

    def __init__(self, tokenize: Tokenize, max_tokens: int, *, keeps_start: bool = True) -> None:
        self._tokenize = tokenize
        self._max_tokens = max_tokens
        self._cuts = keeps_start and self._has_local_tokens()

    def tokenize(
        self, texts: Sequence[str], progress: Callable[[], None] = lambda: None
    ) -> tuple[list[str], list[list[int]]]:
        """Tokenise texts.

        Args:
            texts: The texts.
            progress: Called after each long text, and after every few short ones.

        Returns:
            Each text, or a beginning of it that has more than the maximum of tokens, of which the
            first ones are those of the text; and the token ids of each.
        """
        parts, token_ids = list(texts), [list[int]() for _ in texts]
        length = self._max_tokens * CHARACTERS_PER_TOKEN
        rest = list(range(len(texts)))
        while rest:
            for i in rest:
                parts[i] = _beginning(texts[i], length) if self._cuts else texts[i]
            for indices in _groups(parts, rest):
                for i, ids in zip(
                    indices, self._tokenize([parts[i] for i in indices]), strict=True
                ):
                    token_ids[i] = ids
                progress()
            enough = self._max_tokens + SPARE_TOKENS
            rest = [
                i for i in rest if len(parts[i]) < len(texts[i]) and len(token_ids[i]) <= enough
            ]
            length *= 4
        return parts, token_ids

    def _has_local_tokens(self) -> bool:
        """Whether the beginning of a probe has the first tokens of the whole."""
        probe = _beginning(PROBE, PROBE_TOKENS * CHARACTERS_PER_TOKEN)
        # Only the last token of a beginning may be another: there are special ones at the end.
        part, whole = self._tokenize([probe, PROBE])
        count = len(part) - SPARE_TOKENS
        return count <= 0 or part[:count] == whole[:count]


def _beginning(text: str, length: int) -> str:
    """A beginning of at most this many characters that ends before a space; else the text."""
    if len(text) <= length:
        return text
    end = text.rfind(" ", 1, length + 1)
    while end > 0 and text[end - 1] == " ":
        end -= 1
    return text[:end] if end > 0 else text


def _groups(texts: Sequence[str], indices: Sequence[int]) -> Iterator[list[int]]:
    """These texts in groups of about `MAX_CHARACTERS`."""
    group, size = list[int](), 0
    for i in indices:
        if group and size + len(texts[i]) > MAX_CHARACTERS:
            yield group
            group, size = [], 0
        group.append(i)
        size += len(texts[i])
    if group:
        yield group
