"""Results of experiments as files, each complete or absent, and reused while nothing changed."""

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
from stitchwork.evaluation.embedded_corpus import EmbeddedCorpus
from stitchwork.evaluation.experiments.experiment_settings import ExperimentSettings
from stitchwork.evaluation.experiments.study import Record

CODE_FOLDERS: Final = ("geometry", "evaluation/experiments", "models")
"""Folders of the package whose code results depend on."""


@dataclass(frozen=True, slots=True)
class CachedResult:
    """The result of one experiment.

    Attributes:
        key: Digest of everything it depends on.
        seconds: How long it took to compute.
        result: The result.
        from_cache: Whether it was computed by an earlier run.
    """

    key: str
    seconds: float
    result: Record
    from_cache: bool


def cached_result(path: Path, key: str, compute: Callable[[], Record]) -> CachedResult:
    """A result from its file if that has this key, else computed and written.

    Args:
        path: A JSON file, which need not exist.
        key: Digest of everything that the result depends on.
        compute: Computes the result.

    Raises:
        MalformedInputError: If the file was not written by this function.
    """
    if path.exists():
        entry = _read(path)
        if entry["key"] == key:
            return CachedResult(key, float(entry["seconds"]), entry["result"], from_cache=True)
    start = time.monotonic()
    result = compute()
    seconds = round(time.monotonic() - start, 2)
    entry = {"key": key, "seconds": seconds, "result": result}
    write_atomically(path, orjson.dumps(entry, option=orjson.OPT_INDENT_2))
    return CachedResult(key, seconds, result, from_cache=False)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under another name first, so that one of this name is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder) / path.name
        file.write_bytes(content)
        file.rename(path)


def result_key(*parts: Any) -> str:
    """A digest of JSON values and of the code that computes results."""
    content = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(_code_digest() + content).hexdigest()


def data_key(embedded: EmbeddedCorpus, settings: ExperimentSettings) -> str:
    """A digest of a data set, of the settings, and of the code that computes results."""
    digest = hashlib.sha256()
    arrays: dict[str, NDArray[Any]] = {**embedded.rows}
    arrays |= {"/train": embedded.train, "/test": embedded.test}
    optional: dict[str, NDArray[Any] | None] = {
        "/labels": embedded.labels,
        "/groups": embedded.groups,
        "/judgements": embedded.judgements,
    }
    arrays |= {name: array for name, array in optional.items() if array is not None}
    for name, array in arrays.items():
        digest.update(orjson.dumps([name, array.dtype.str, array.shape]))
        digest.update(array.tobytes())
    description = [embedded.name, dict(embedded.modality), list(embedded.classes), asdict(settings)]
    return result_key(digest.hexdigest(), description)


def _read(path: Path) -> dict[str, Any]:
    try:
        entry = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise MalformedInputError(
            f"{path} is not valid JSON; delete it to compute the result again"
        ) from error
    if not isinstance(entry, dict) or not {"key", "seconds", "result"} <= entry.keys():
        raise MalformedInputError(f"{path}: expected a result of an evaluation")
    return entry


@cache
def _code_digest() -> bytes:
    root = Path(stitchwork.__file__).parent
    digest = hashlib.sha256()
    for folder in CODE_FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.digest()
