"""Samples of stores, and their texts, from real files."""

import json
from pathlib import Path

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.migration.row_texts import FieldTexts, FileTexts
from stitchwork.migration.store_sample import measure_rate, read_rows, read_sample
from stitchwork.migration.stores import open_store
from tests.support.moved_stores import make_vectors, write_parquet


def test_rows_without_a_valid_vector_are_left_out_of_a_sample(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", 40, with_faults=True)
    with open_store(str(tmp_path / "rows.parquet")) as store:
        sample = read_sample(store, 100, 0, FieldTexts("text"))
    assert (sample.rows, len(sample.ids), sample.invalid) == (40, 37, 3)
    assert {"r3", "r5", "r7"}.isdisjoint(sample.ids)
    assert np.isfinite(sample.vectors).all()
    for id_, text in zip(sample.ids, sample.texts, strict=True):
        assert text == f"text {str(id_)[1:]}\nof two lines"


def test_field_without_texts_is_refused_with_the_fields_of_the_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", 40)
    with (
        open_store(str(tmp_path / "rows.parquet")) as store,
        pytest.raises(InvalidInputError, match=r"field label, got none; the rows have .*text"),
    ):
        read_sample(store, 10, 0, FieldTexts("label"))


def test_rows_are_read_by_numbers_that_are_text_in_the_other_store(tmp_path: Path) -> None:
    vectors = make_vectors(30)
    np.save(tmp_path / "rows.npy", vectors)
    (tmp_path / "rows.ids.txt").write_text("".join(f"{i}\n" for i in range(30)))
    with open_store(str(tmp_path / "rows.npy")) as store:
        rows = read_rows(store, [3, "7", 99])
    assert rows.keys() == {"3", "7"}
    np.testing.assert_array_equal(rows["3"], vectors[3])


def test_rows_are_read_by_ids_that_the_store_did_not_accept(tmp_path: Path) -> None:
    record = {"id": "6f1c", "embedding": [1.0, 2.0], "original_id": "doc-3"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(record) + "\n")
    with open_store(str(tmp_path / "rows.jsonl")) as store:
        rows = read_rows(store, ["doc-3"])
    assert rows["doc-3"].tolist() == [1.0, 2.0]


def test_texts_of_a_file_are_matched_by_id_and_blank_ones_are_none(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    lines = [{"id": 7, "text": "seven"}, {"id": "a", "text": " "}, {"id": "z", "text": "other"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert FileTexts(path)(["a", "7", "b"], [{}, {}, {}]) == [None, "seven", None]
    with pytest.raises(InvalidInputError, match="expected the ids of the store, such as q"):
        FileTexts(path)(["q"], [{}])
    path.write_text('{"id": 1}\n')
    with pytest.raises(InvalidInputError, match="line 1"):
        FileTexts(path)(["1"], [{}])


def test_rate_is_measured_on_rows_that_are_translated(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", 50)
    translated: list[int] = []
    with open_store(str(tmp_path / "rows.parquet")) as store:
        rate = measure_rate(store, lambda vectors: translated.append(len(vectors)))
    assert sum(translated) == 50
    assert rate > 0
