"""Results that outlive a run: one file each, whole or absent, taken again while nothing changed."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson
from numpy.typing import NDArray

import stitchwork
from stitchwork.errors import MalformedInputError
from stitchwork.evaluation.embedded_corpus import Embedded
from stitchwork.evaluation.experiments.experiment_settings import Settings
from stitchwork.evaluation.experiments.study import Record

CODE: Final = ("geometry", "evaluation/experiments", "models")
"""What results depend on besides data and settings."""


@dataclass(frozen=True, slots=True)
class CachedResult:
    """One result.

    Attributes:
        key: Of everything it depends on.
        seconds: What it took.
        result: What was found.
        again: Whether it was found by an earlier run.
    """

    key: str
    seconds: float
    result: Record
    again: bool


def cached_result(path: Path, key: str, compute: Callable[[], Record]) -> CachedResult:
    """A result out of its file if that has this key, else computed and written.

    Args:
        path: A JSON file, which need not exist.
        key: Of everything that the result depends on.
        compute: Finds the result.

    Raises:
        MalformedInputError: If the file is not one that this wrote.
    """
    if path.exists():
        told = _read(path)
        if told["key"] == key:
            return CachedResult(key, float(told["seconds"]), told["result"], again=True)
    began = time.monotonic()
    result = compute()
    seconds = round(time.monotonic() - began, 2)
    written = {"key": key, "seconds": seconds, "result": result}
    write_whole(path, orjson.dumps(written, option=orjson.OPT_INDENT_2))
    return CachedResult(key, seconds, result, again=False)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name first: one of the right name is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as inner:
        file = Path(inner) / path.name
        file.write_bytes(content)
        file.rename(path)


def key_of(*parts: Any) -> str:
    """A digest of JSON values, and of the code that results come from."""
    told = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(_code() + told).hexdigest()


def key_of_data(embedded: Embedded, settings: Settings) -> str:
    """A digest of a data set's numbers and of what is asked of it."""
    digest = hashlib.sha256()
    arrays: dict[str, NDArray[Any]] = {**embedded.rows}
    arrays |= {"/train": embedded.train, "/test": embedded.test}
    extra = {"/labels": embedded.labels, "/groups": embedded.groups}
    arrays |= {name: array for name, array in extra.items() if array is not None}
    for name, array in arrays.items():
        digest.update(orjson.dumps([name, array.dtype.str, array.shape]))
        digest.update(array.tobytes())
    about = [embedded.name, dict(embedded.modality), list(embedded.classes), asdict(settings)]
    return key_of(digest.hexdigest(), about)


def _read(path: Path) -> dict[str, Any]:
    try:
        told = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise MalformedInputError(f"{path} is damaged; without it, it is computed anew") from error
    if not isinstance(told, dict) or not {"key", "seconds", "result"} <= told.keys():
        raise MalformedInputError(f"{path}: expected a result of an evaluation")
    return told


@cache
def _code() -> bytes:
    root = Path(stitchwork.__file__).parent
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((root / folder).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()
