"""Reading documents, queries and judgements of relevance from a folder."""

import csv
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from stitchwork.errors import InvalidInputError, MalformedInputError, UnknownResourceError
from stitchwork.evaluation.corpora import Corpus, View

DOCUMENTS: Final = "documents.jsonl"
QUERIES: Final = "queries.jsonl"
JUDGEMENTS: Final = "judgements.tsv"
WORST_GRADE: Final = 4
"""Grades are 1, the best, to 4; others are of no interest. The gain is 5 minus the grade."""


def read_judged_documents(folder: Path) -> Corpus:
    """Documents as training rows, queries as test rows, and the gains of judged pairs.

    Args:
        folder: With `documents.jsonl` and `queries.jsonl`, of objects with `id` and `text`, and
            `judgements.tsv` with columns `query`, `document` and `grade`, as the Cranfield
            collection has them. Documents without text are left out.

    Raises:
        UnknownResourceError: If a file is missing.
        MalformedInputError: If a line cannot be read.
        InvalidInputError: If no judgement names a query and a document with text.
    """
    documents, queries = (_texts(folder / name) for name in (DOCUMENTS, QUERIES))
    rows, columns = ({id_: i for i, id_ in enumerate(texts)} for texts in (queries, documents))
    gains = np.zeros((len(rows), len(columns)), np.float32)
    for line, (query, document, grade) in enumerate(_judgements(folder / JUDGEMENTS), 2):
        if not grade.removeprefix("-").isdigit():
            raise MalformedInputError(
                f"{folder / JUDGEMENTS}: line {line}: expected a whole number as grade, got {grade}"
            )
        if query in rows and document in columns and 1 <= int(grade) <= WORST_GRADE:
            gains[rows[query], columns[document]] = WORST_GRADE + 1 - int(grade)
    if not gains.any():
        raise InvalidInputError(
            f"{folder}: expected judgements of its queries and documents, got none"
        )
    texts = [*documents.values(), *queries.values()]
    return Corpus(
        folder.name,
        None,
        (),
        np.arange(len(documents)),
        np.arange(len(documents), len(texts)),
        {"text": View("text", texts)},
        judgements=gains,
    )


def _texts(path: Path) -> dict[str, str]:
    """Texts that are not empty, by id."""
    texts = {}
    for number, line in enumerate(_lines(path), 1):
        try:
            row: Any = orjson.loads(line)
            id_, text = str(row["id"]), str(row["text"]).strip()
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise MalformedInputError(
                f"{path}: line {number}: expected an object with id and text"
            ) from error
        if text:
            texts[id_] = text
    return texts


def _judgements(path: Path) -> list[tuple[str, str, str]]:
    reader = csv.DictReader(_lines(path), delimiter="\t")
    if not {"query", "document", "grade"} <= set(reader.fieldnames or ()):
        raise MalformedInputError(f"{path}: expected columns query, document and grade")
    return [(row["query"], row["document"], row["grade"] or "") for row in reader]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UnknownResourceError(f"there is no file {path}")
    try:
        return path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise MalformedInputError(f"{path}: expected UTF-8 text") from error
