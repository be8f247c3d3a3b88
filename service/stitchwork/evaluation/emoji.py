"""Emoji as images and as names in several languages, from two npm packages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from stitchwork.errors import InvalidInputError, MalformedInputError, UnknownResourceError
from stitchwork.evaluation.corpora import Corpus, View, label_indices, train_test_split

IMAGE_PACKAGE: Final = "emoji-datasource-twitter"
NAME_PACKAGE: Final = "emojibase-data"
EXCLUDED_CATEGORIES: Final = ("Flags", "Component")
"""Categories whose names the images do not show, or that are parts of other emoji."""
LANGUAGES: Final = ("en", "fr", "ja")
IMAGE_SIZE: Final = 128


def emoji_corpus(folder: Path, languages: Sequence[str] = LANGUAGES, seed: int = 0) -> Corpus:
    """Images and names of emoji; categories are the classes, subcategories the groups.

    Skin tones, which are variants of an emoji, and flags are left out.

    Args:
        folder: The folder of the unpacked packages `emoji-datasource-twitter` and
            `emojibase-data`.
        languages: Languages of the names, by their folders in `emojibase-data`.
        seed: Seed of the split, a fifth of each category.

    Returns:
        Views `image` and one for each language; only emoji with a name in every language.

    Raises:
        UnknownResourceError: If a package or a language is missing.
        InvalidInputError: If no emoji has both an image and names.
    """
    for package in (IMAGE_PACKAGE, NAME_PACKAGE):
        if not (folder / package).is_dir():
            raise UnknownResourceError(
                f"{folder}: expected the unpacked npm package {package}; "
                f"`npm pack {package}` fetches it"
            )
    names = {language: _names(folder / NAME_PACKAGE, language) for language in languages}
    images = folder / IMAGE_PACKAGE / "img" / "twitter" / "64"
    entries = [
        (entry, key)
        for entry in sorted(_json(folder / IMAGE_PACKAGE / "emoji.json"), key=_order)
        if entry["category"] not in EXCLUDED_CATEGORIES
        and entry["has_img_twitter"]
        and (images / entry["image"]).is_file()
        and all((key := _key(entry["unified"])) in known for known in names.values())
    ]
    if not entries:
        raise InvalidInputError(f"{folder}: no emoji has both an image and a name")
    labels, classes = label_indices([entry["category"] for entry, _ in entries])
    groups, _ = label_indices([entry["subcategory"] for entry, _ in entries])
    train, test = train_test_split(len(entries), labels, seed)
    contents = [(images / entry["image"]).read_bytes() for entry, _ in entries]
    views = {"image": View("image", contents, IMAGE_SIZE)} | {
        language: View("text", [known[key] for _, key in entries])
        for language, known in names.items()
    }
    return Corpus("emoji", labels, classes, train, test, views, groups=groups)


def _names(folder: Path, language: str) -> Mapping[str, str]:
    path = folder / language / "compact.json"
    if not path.is_file():
        available = sorted(path.parent.name for path in folder.glob("*/compact.json"))
        raise UnknownResourceError(f"expected a language of {', '.join(available)}, got {language}")
    return {_key(entry["hexcode"]): entry["label"] for entry in _json(path)}


def _key(code: str) -> str:
    """Code points without the variation selector, which the packages set differently."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def _order(entry: Mapping[str, Any]) -> int:
    return int(entry["sort_order"])


def _json(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UnknownResourceError(f"there is no file {path}")
    try:
        entries: list[dict[str, Any]] = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise MalformedInputError(f"{path}: expected JSON") from error
    return entries
