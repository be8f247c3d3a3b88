"""Reading documents, queries and judgements."""

from pathlib import Path

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError, StitchworkError
from stitchwork.evaluation.corpora import Corpus
from stitchwork.evaluation.corpus_sources import load_corpus

DOCUMENTS = [
    '{"id": 1, "title": "t", "text": "wings"}',
    '{"id": 2, "text": " "}',
    '{"id": "x", "text": "heat"}',
    '{"id": 4, "text": "flow"}',
]
QUERIES = ['{"id": 1, "text": "what of wings ."}', '{"id": 2, "text": "what of heat ."}']
JUDGEMENTS = ["query\tdocument\tgrade", "1\t1\t1", "1\tx\t-1", "2\tx\t4", "2\t2\t1", "9\t1\t1"]


def folder(path: Path, **files: list[str]) -> Path:
    lines = {"documents": DOCUMENTS, "queries": QUERIES, "judgements": JUDGEMENTS, **files}
    suffixes = {"documents": "jsonl", "queries": "jsonl", "judgements": "tsv"}
    path.mkdir(exist_ok=True)
    for name, content in lines.items():
        (path / f"{name}.{suffixes[name]}").write_text("\n".join(content) + "\n")
    return path


def test_judged_documents_have_gains_by_query_and_document(tmp_path: Path) -> None:
    corpus = load_corpus(str(folder(tmp_path / "wings")))
    assert corpus.name == "wings"
    assert list(corpus.views["text"].items) == [
        *("wings", "heat", "flow"),
        *("what of wings .", "what of heat ."),
    ]
    assert corpus.train.tolist() == [0, 1, 2]
    assert corpus.test.tolist() == [3, 4]
    assert corpus.judgements is not None
    assert corpus.judgements.tolist() == [[4, 0, 0], [0, 1, 0]]


def test_sample_of_judged_documents_keeps_its_gains(tmp_path: Path) -> None:
    corpus = load_corpus(str(folder(tmp_path / "wings")))
    sample = corpus.subsample(2)
    assert corpus.judgements is not None
    assert sample.judgements is not None
    texts = list(sample.views["text"].items)
    all_texts = list(corpus.views["text"].items)
    for i, query in enumerate(sample.test):
        for j, document in enumerate(sample.train):
            expected = corpus.judgements[
                all_texts.index(texts[query]) - 3, all_texts.index(texts[document])
            ]
            assert sample.judgements[i, j] == expected


def test_embeddings_with_judgements_are_read(tmp_path: Path) -> None:
    rows = np.eye(5, dtype=np.float32)
    arrays = {"train": np.array([4, 0, 1]), "test": np.array([3, 2]), "a": rows, "b": 2 * rows}
    gains = np.array([[1, 0, 2], [0, 3, 0]])
    np.savez(tmp_path / "a.npz", allow_pickle=False, judgements=gains, **arrays)
    corpus = load_corpus(str(tmp_path / "a.npz"))
    assert corpus.judgements is not None
    assert corpus.judgements.tolist() == gains.tolist()
    np.savez(tmp_path / "b.npz", allow_pickle=False, judgements=-gains, **arrays)
    with pytest.raises(InvalidInputError, match="expected judgements of 0 or more"):
        load_corpus(str(tmp_path / "b.npz"))
    with pytest.raises(InvalidInputError, match=r"expected judgements \(2, 3\), got \(1, 3\)"):
        Corpus("a", None, (), corpus.train, corpus.test, rows=corpus.rows, judgements=gains[:1])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"documents": ["not JSON"]}, "documents.jsonl: line 1: expected an object with id"),
        ({"queries": ['{"id": 1}']}, "queries.jsonl: line 1: expected an object with id and text"),
        ({"judgements": ["query\tdocument", "1\t1"]}, "expected columns query, document and grade"),
        ({"judgements": [JUDGEMENTS[0], "1\t1\tbest"]}, "line 2: expected a whole number as grade"),
        ({"judgements": [JUDGEMENTS[0], "7\t1\t1"]}, "expected judgements of its queries and doc"),
    ],
)
def test_malformed_judged_documents_are_refused(
    tmp_path: Path, files: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(StitchworkError, match=message):
        load_corpus(str(folder(tmp_path / "wings", **files)))


def test_missing_file_of_judged_documents_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "wings")
    (path / "queries.jsonl").unlink()
    with pytest.raises(StitchworkError, match=r"there is no file .*queries\.jsonl"):
        load_corpus(str(path))
