"""Which of a model's prompts an input type selects."""

import pytest

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.resources.prompts import select_prompt

JINA = {
    "retrieval.query": "Represent the query: ",
    "retrieval.passage": "Represent the document: ",
    "separation": "",
    "classification": "",
    "text-matching": "",
}
NOMIC = {"search_query": "q: ", "search_document": "d: ", "clustering": "c: "}
GEMMA = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "Retrieval-query": "task: other | query: ",
    "STS": "task: sentence similarity | query: ",
    "Clustering": "task: clustering | query: ",
}
ARCTIC = {"query": "Represent this sentence: "}
E5 = {"query": "query: ", "passage": "passage: "}
SAVED_E5 = {"query": "query: ", "document": "", "passage": "passage: "}
"""As sentence-transformers saves it."""
SAVED_MINILM = {"query": "", "document": ""}


@pytest.mark.parametrize(
    ("prompts", "input_type", "name"),
    [
        # Cohere, Voyage, NVIDIA, Jina and Google, in this order.
        (E5, "search_query", "query"),
        (E5, "search_document", "passage"),
        (E5, "query", "query"),
        (E5, "document", "passage"),
        (E5, "passage", "passage"),
        (NOMIC, "query", "search_query"),
        (NOMIC, "passage", "search_document"),
        (NOMIC, "clustering", "clustering"),
        (NOMIC, "separation", "clustering"),
        (JINA, "retrieval.query", "retrieval.query"),
        (JINA, "search_document", "retrieval.passage"),
        (JINA, "SEMANTIC_SIMILARITY", "text-matching"),
        (JINA, "CLASSIFICATION", "classification"),
        (JINA, "clustering", "separation"),
        (GEMMA, "retrieval.query", "Retrieval-query"),
        (GEMMA, "RETRIEVAL_DOCUMENT", "document"),
        (GEMMA, "clustering", "Clustering"),
        (GEMMA, "text-matching", "STS"),
        (ARCTIC, "RETRIEVAL_QUERY", "query"),
        (SAVED_E5, "document", "passage"),
        (SAVED_E5, "retrieval.passage", "passage"),
        (SAVED_MINILM, "document", "document"),
        (SAVED_MINILM, "passage", "document"),
    ],
)
def test_input_type_selects_the_prompt_of_its_purpose(
    prompts: dict[str, str], input_type: str, name: str
) -> None:
    assert select_prompt("m", prompts, input_type) == (name, prompts[name])


@pytest.mark.parametrize("input_type", ["document", "search_document", "retrieval.passage"])
def test_documents_of_a_model_with_a_prompt_for_queries_alone_have_none(input_type: str) -> None:
    assert select_prompt("m", ARCTIC, input_type) == (None, "")


@pytest.mark.parametrize(
    ("prompts", "input_type", "names"),
    [
        (ARCTIC, "clustering", "query"),
        ({"passage": "p: "}, "query", "passage"),
        (E5, "classification", "query, passage"),
        ({}, "query", "it has none"),
        ({str(i): "" for i in range(25)}, "query", "18, 19 and 5 more"),
    ],
)
def test_input_type_without_a_prompt_is_refused_with_the_names(
    prompts: dict[str, str], input_type: str, names: str
) -> None:
    with pytest.raises(InvalidInputError) as raised:
        select_prompt("m", prompts, input_type)
    assert f"{names}), got {input_type!r}" in raised.value.message
    assert (raised.value.code, raised.value.pointer) == (
        ErrorCode.UNKNOWN_PROMPT,
        "/input_type",
    )
