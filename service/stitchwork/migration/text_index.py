"""Where the texts of ids are in a file, so that it is read once."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from stitchwork.errors import ConflictError, InvalidInputError
from stitchwork.migration.store import Id


class TextIndex:
    """The places of the lines of a file with `{"id": …, "text": …}` on each line.

    It has 16 bytes a line: a hash of the id, and the place in the file.

    Args:
        path: The file, which is read once.

    Raises:
        InvalidInputError: If there is no such file, a line is no such object, or an id repeats.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._revision = self._stat()
        hashes, places = array("q"), array("q")
        for _, place, id_, _ in self._lines():
            hashes.append(hash(id_))
            places.append(place)
        order = np.argsort(np.array(hashes, np.int64), kind="stable")
        self._hashes = np.array(hashes, np.int64)[order]
        self._places = np.array(places, np.int64)[order]
        self._check_unique_ids()

    def read(self, ids: Sequence[Id]) -> list[Any]:
        """The text of each id; None where the file has none.

        Raises:
            ConflictError: If the file has changed.
        """
        hashes = np.array([hash(str(id_)) for id_ in ids], np.int64)
        starts = np.searchsorted(self._hashes, hashes, "left")
        stops = np.searchsorted(self._hashes, hashes, "right")
        texts: list[Any] = [None] * len(ids)
        if self._stat() != self._revision:
            raise ConflictError(f"{self._path} has changed since the command began")
        with self._path.open("rb") as file:
            for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                for place in self._places[start:stop].tolist():
                    file.seek(place)
                    id_, text = _parse(file.readline())
                    # Several ids may have one hash.
                    if id_ == str(ids[i]):
                        texts[i] = text
        return texts

    def _check_unique_ids(self) -> None:
        candidates = set(self._hashes[1:][self._hashes[1:] == self._hashes[:-1]].tolist())
        ids = set[str]()
        for number, _, id_, _ in self._lines() if candidates else ():
            if hash(id_) in candidates:
                if id_ in ids:
                    raise InvalidInputError(
                        f"{self._path}, line {number}: expected an id once, got {id_} again"
                    )
                ids.add(id_)

    def _stat(self) -> tuple[int, int]:
        try:
            stat = self._path.stat()
        except OSError as error:
            raise self._missing(error) from error
        return stat.st_size, stat.st_mtime_ns

    def _missing(self, error: OSError) -> InvalidInputError:
        return InvalidInputError(f"{self._path}: expected a file of texts: {error.strerror}")

    def _lines(self) -> Iterator[tuple[int, int, str, Any]]:
        """Number, place, id and text of each line that is not blank."""
        try:
            file = self._path.open("rb")
        except OSError as error:
            raise self._missing(error) from error
        with file:
            place = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, place, *_parse(line)
                    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                        raise InvalidInputError(
                            f'{self._path}, line {number}: expected {{"id": …, "text": …}}'
                        ) from error
                place += len(line)


def _parse(line: bytes) -> tuple[str, Any]:
    fields = orjson.loads(line)
    return str(fields["id"]), fields["text"]
