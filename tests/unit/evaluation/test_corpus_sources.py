"""Every form that data may have, as small files made here, and what is said of broken ones."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stitchwork.errors import InvalidInputError, MalformedInputError, UnknownResourceError
from stitchwork.evaluation.corpora import Corpus
from stitchwork.evaluation.corpus_sources import corpus
from stitchwork.evaluation.emoji import NAMES, PICTURES

ROWS = [(f"a question, number {i}", ("card", "cash")[i % 2]) for i in range(40)]


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return buffer.getvalue()


def write_csv(path: Path, rows: list[tuple[str, str]], column: str = "category") -> None:
    lines = [f"text,{column}", *(f'"{text}",{label}' for text, label in rows)]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8")


def named(found: Corpus) -> list[str]:
    assert found.labels is not None
    return [found.classes[label] for label in found.labels]


@pytest.mark.parametrize("column", ["category", "label"])
def test_texts_in_a_csv_file(tmp_path: Path, column: str) -> None:
    write_csv(tmp_path / "bank.csv", ROWS, column)
    found = corpus(str(tmp_path / "bank.csv"))
    assert found.name == "bank"
    assert found.views["text"].items == [text for text, _ in ROWS]
    assert named(found) == [label for _, label in ROWS]
    assert (len(found.train), len(found.test)) == (32, 8)


def test_texts_in_a_jsonl_file(tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text("\n\n".join(json.dumps({"text": t, "label": c}) for t, c in ROWS))
    found = corpus(str(path))
    assert found.views["text"].items == [text for text, _ in ROWS]
    assert named(found) == [label for _, label in ROWS]


def test_texts_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text, _ in ROWS))
    found = corpus(str(path))
    assert found.labels is None
    assert found.classes == ()


def test_a_folder_that_comes_split_keeps_its_split(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS[:30])
    write_csv(tmp_path / "test.csv", ROWS[30:])
    found = corpus(str(tmp_path))
    assert found.name == tmp_path.name
    np.testing.assert_array_equal(found.train, np.arange(30))
    np.testing.assert_array_equal(found.test, np.arange(30, 40))
    assert named(found) == [label for _, label in ROWS]


def test_most_caps_each_part(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS[:30])
    write_csv(tmp_path / "test.csv", ROWS[30:])
    found = corpus(str(tmp_path), most=12)
    assert (len(found.train), len(found.test)) == (12, 10)
    assert found.labels is not None
    np.testing.assert_array_equal(np.bincount(found.labels[found.train]), [6, 6])


def test_a_few_incomplete_rows_are_left_out_and_said(tmp_path: Path) -> None:
    many = [(f"text {i}", "ab"[i % 2]) for i in range(200)]
    write_csv(tmp_path / "bank.csv", [*many, (" ", "a"), ("no label", "")])
    found = corpus(str(tmp_path / "bank.csv"))
    assert found.views["text"].items == [text for text, _ in many]
    assert found.notes == ("bank.csv: 2 of 202 rows are incomplete and left out",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("words,label\nhello,a\n", "a column text, got words, label"),
        ("text,label\nhello,a\n,b\n", r"line 3 has no text, and so it is in 1 of 2 rows"),
        ("text,label\nhello,a\nhello\n", "line 3 has no label"),
        ("text,label\n", "at least one row"),
    ],
)
def test_a_csv_file_that_lacks_something(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bank.csv"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        corpus(str(path))


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_line_that_is_no_json_object(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text('{"text": "fine"}\n' + line)
    with pytest.raises(MalformedInputError, match="line 2 is not"):
        corpus(str(path))


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "bank.csv").write_bytes(b"text,label\n\xff\xfe,a\n")
    with pytest.raises(MalformedInputError, match="UTF-8"):
        corpus(str(tmp_path / "bank.csv"))


def test_labels_in_one_part_only(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS)
    (tmp_path / "test.csv").write_text("text\nhello\n")
    with pytest.raises(InvalidInputError, match="labels in both"):
        corpus(str(tmp_path))


def test_parallel_texts_by_folder_stem_or_paths(tmp_path: Path) -> None:
    french, english = tmp_path / "fra-eng.fra", tmp_path / "fra-eng.eng"
    french.write_text("".join(f"phrase {i}\n" for i in range(10)))
    english.write_text("".join(f"sentence {i}\n" for i in range(10)))
    for source in (tmp_path, tmp_path / "fra-eng", f"{french},{english}"):
        found = corpus(str(source))
        assert found.name == "fra-eng"
        assert set(found.views) == {"fra", "eng"}
        assert found.views["fra"].items[3] == "phrase 3"
        assert found.views["eng"].items[3] == "sentence 3"
        assert (found.labels, found.size, len(found.test)) == (None, 10, 2)


def test_parallel_texts_that_do_not_fit(tmp_path: Path) -> None:
    french, english = tmp_path / "a.fra", tmp_path / "a.eng"
    french.write_text("un\ndeux\ntrois\n")
    english.write_text("one\ntwo\n")
    with pytest.raises(InvalidInputError, match="as many rows in each, got eng: 2, fra: 3"):
        corpus(str(tmp_path))
    english.write_text("one\n\nthree\n")
    with pytest.raises(InvalidInputError, match="line 2 is empty"):
        corpus(str(tmp_path))
    with pytest.raises(InvalidInputError, match="suffixes of their own"):
        corpus(f"{french},{french}")
    with pytest.raises(UnknownResourceError, match=r"there is no file .*a\.jpn"):
        corpus(f"{french},{tmp_path / 'a.jpn'}")


def test_a_folder_of_several_parallel_texts_asks_which(tmp_path: Path) -> None:
    for name in ("a.x", "a.y", "b.x", "b.y"):
        (tmp_path / name).write_text("line\nline\n")
    with pytest.raises(InvalidInputError, match=r"name one of .*/a, .*/b"):
        corpus(str(tmp_path))


def test_images_by_class(tmp_path: Path) -> None:
    for label, shade in (("dark", 10), ("light", 200)):
        (tmp_path / label).mkdir()
        for i in range(5):
            (tmp_path / label / f"{i}.png").write_bytes(png(shade + i))
        (tmp_path / label / "notes.txt").write_text("not an image")
    found = corpus(str(tmp_path))
    assert named(found) == ["dark"] * 5 + ["light"] * 5
    assert found.views["image"].items[6] == png(201)
    assert found.views["image"].modality == "image"
    assert (len(found.train), len(found.test)) == (8, 2)


def test_images_by_class_that_come_split(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 1)):
        for label in ("dark", "light"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                (tmp_path / part / label / f"{i}.png").write_bytes(png(i))
    found = corpus(str(tmp_path))
    np.testing.assert_array_equal(found.train, np.arange(6))
    np.testing.assert_array_equal(found.test, [6, 7])


def test_a_folder_of_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="at least two"):
        corpus(str(tmp_path))


def test_embeddings_in_an_npz_file(tmp_path: Path) -> None:
    path, rng = tmp_path / "own.npz", np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 6)).astype(np.float16)
    names = np.array(["b", "a"] * 10)
    np.savez(path, x=x, y=y, labels=names, groups=np.arange(20) // 2)
    found = corpus(str(path))
    np.testing.assert_array_equal(found.rows["x"], x.astype(np.float32))
    assert found.rows["y"].dtype == np.float32
    assert named(found) == names.tolist()
    assert found.groups is not None
    np.testing.assert_array_equal(found.groups, np.arange(20) // 2)


def test_an_npz_file_may_bring_its_split_and_the_names_of_its_classes(tmp_path: Path) -> None:
    path, labels = tmp_path / "own.npz", np.array([2, 0, 2, 0])
    classes = np.array(["a", "b", "c"])
    np.savez(path, x=np.eye(4), train=[3, 0], test=[1], labels=labels, classes=classes)
    found = corpus(str(path))
    np.testing.assert_array_equal(found.train, [3, 0])
    np.testing.assert_array_equal(found.test, [1])
    assert named(found) == ["c", "a", "c", "a"]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"x": np.eye(4), "y": np.eye(5)}, "as many rows in each, got x: 4, y: 5"),
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
def test_arrays_that_do_not_fit(tmp_path: Path, held: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "own.npz", **held)
    with pytest.raises(InvalidInputError, match=message):
        corpus(str(tmp_path / "own.npz"))


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, x=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(MalformedInputError, match="plain arrays"):
        corpus(str(path))
    path.write_bytes(b"not a zip file at all")
    with pytest.raises(MalformedInputError, match="plain arrays"):
        corpus(str(path))


def make_emoji(folder: Path) -> None:
    pictures = folder / PICTURES / "img" / "twitter" / "64"
    pictures.mkdir(parents=True)
    entries = []
    for i in range(12):
        code = f"1F6{i:02}-FE0F"
        flag, lost = i == 0, i == 1
        entries.append(
            {
                "unified": code,
                "image": f"{code.lower()}.png",
                "category": "Flags" if flag else ("Food", "Animals")[i % 2],
                "subcategory": f"group {i // 4}",
                "sort_order": 100 - i,
                "has_img_twitter": not lost,
            }
        )
        (pictures / f"{code.lower()}.png").write_bytes(png(i))
    (folder / PICTURES / "emoji.json").write_text(json.dumps(entries))
    for language, known in (("en", range(12)), ("fr", range(11))):
        (folder / NAMES / language).mkdir(parents=True)
        names = [{"hexcode": f"1F6{i:02}", "label": f"{language} {i}"} for i in known]
        (folder / NAMES / language / "compact.json").write_text(json.dumps(names))


def test_emoji_pair_pictures_with_names_in_each_language(tmp_path: Path) -> None:
    make_emoji(tmp_path)
    found = corpus(str(tmp_path), languages=("en", "fr"))
    assert list(found.views) == ["image", "en", "fr"]
    # Without the flag, the one without a picture, and the one without a French name.
    assert found.views["en"].items == [f"en {i}" for i in range(10, 1, -1)]
    assert found.views["fr"].items == [f"fr {i}" for i in range(10, 1, -1)]
    assert found.views["image"].items == [png(i) for i in range(10, 1, -1)]
    assert found.classes == ("Animals", "Food")
    assert found.groups is not None
    np.testing.assert_array_equal(found.groups, [i // 4 for i in range(10, 1, -1)])


def test_emoji_that_lack_something(tmp_path: Path) -> None:
    make_emoji(tmp_path)
    with pytest.raises(UnknownResourceError, match="a language of en, fr, got xx"):
        corpus(str(tmp_path), languages=("en", "xx"))
    (tmp_path / NAMES).rename(tmp_path / "elsewhere")
    with pytest.raises(UnknownResourceError, match=f"npm pack {NAMES}"):
        corpus(str(tmp_path))


def test_digits_come_with_every_image() -> None:
    found = corpus("digits")
    assert (found.size, len(found.train), len(found.test)) == (1797, 1400, 397)
    assert found.classes == tuple("0123456789")
    assert found.views["image"].input_size == 96


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownResourceError, match="digits, fashion-mnist or a path, got mnist"):
        corpus("mnist")
    (tmp_path / "data.xlsx").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"a file of \.csv, \.jsonl, \.npz"):
        corpus(str(tmp_path / "data.xlsx"))
