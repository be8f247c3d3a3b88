"""Which of a model's named prompts the `input_type` of a request selects.

Clients of other services send `input_type` (Cohere, Voyage, NVIDIA) or `task` (Jina), whose values
differ in words for the same few purposes, as the names of models' prompts do.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from stitchwork.errors import ErrorCode, InvalidInputError

QUERY: Final = ("query", "search_query", "retrieval_query")
DOCUMENT: Final = (
    *("document", "passage", "corpus", "search_document", "search_passage"),
    *("retrieval_document", "retrieval_passage"),
)
PURPOSES: Final = (
    QUERY,
    DOCUMENT,
    ("similarity", "sts", "semantic_similarity", "text_matching"),
    ("clustering", "separation"),
)
"""Names of equal meaning; all others mean only themselves."""
MAX_NAMES: Final = 20
"""Names of prompts that a message lists."""


class Prompt(NamedTuple):
    """A prompt of a model.

    Attributes:
        name: Its name; None for no prompt.
        text: The text before each input; may be empty.
    """

    name: str | None
    text: str


def select_prompt(model: str, prompts: Mapping[str, str], input_type: str) -> Prompt:
    """The prompt of a model that an input type selects; see `find_prompt`.

    Args:
        model: Name of the model in errors.
        prompts: Its prompts by name.
        input_type: A name of one of them, or another word for the same purpose.

    Raises:
        InvalidInputError: If no prompt fits; the message lists their names.
    """
    prompt = find_prompt(prompts, input_type)
    if prompt is not None:
        return prompt
    raise InvalidInputError(
        f"expected an input type that fits a prompt of {model} ({_names(prompts)}), got "
        f"{input_type[:80]!r}; the prompts of an encoder can be set when its space is registered",
        pointer="/input_type",
        code=ErrorCode.UNKNOWN_PROMPT,
    )


def find_prompt(prompts: Mapping[str, str], input_type: str) -> Prompt | None:
    """The prompt that an input type selects; None if none fits.

    A model with a prompt for queries and none for documents embeds documents without a prompt, as
    sentence-transformers does.

    Args:
        prompts: The prompts of a model by name.
        input_type: A name of one of them, or another word for the same purpose; `.`, `-` and `_`
            are equal, as are upper and lower case.
    """
    names = {_normalise(name): name for name in reversed(list(prompts))}
    word = _normalise(input_type)
    purpose = next((words for words in PURPOSES if word in words), ())
    words = (word, word.rpartition("_")[2] if purpose else word, *purpose)
    fitting = [input_type] if input_type in prompts else []
    fitting += [names[candidate] for candidate in words if candidate in names]
    if fitting:
        # An empty prompt of another name may be one that sentence-transformers adds when it saves.
        name = next((name for name in fitting if prompts[name]), fitting[0])
        return Prompt(name, prompts[name])
    if purpose is DOCUMENT and any(query in names for query in QUERY):
        return Prompt(None, "")
    return None


def _normalise(name: str) -> str:
    return name.strip().lower().replace(".", "_").replace("-", "_")


def _names(prompts: Mapping[str, str]) -> str:
    names = list(prompts)
    if not names:
        return "it has none"
    others = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {others} more" if others > 0 else "")
