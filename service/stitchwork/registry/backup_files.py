"""The file of a backup: a zip of JSON and of blocks as the registry stores them, with checksums."""

import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

from stitchwork import __version__
from stitchwork.errors import ConflictError, CorruptDataError, IncompatibleFormatError
from stitchwork.registry.stored_records import FORMAT as RECORD_FORMAT

FORMAT: Final = 1
"""The format of the file that is written, and the only one so far."""
MANIFEST: Final = "manifest.json"
_ENCRYPTED: Final = 1
"""The flag of an encrypted member of a zip."""
_DAMAGE: Final = (
    *(zipfile.BadZipFile, NotImplementedError, struct.error),
    *(KeyError, ValueError, EOFError),
)
"""What zipfile raises for damaged files, beside OSError."""


class BackupWriter:
    """Writes the members of a backup one after the other."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._checksums: dict[str, str] = {}

    def write(self, name: str, data: bytes) -> None:
        """Write one member."""
        # Arrays hardly shrink, and a checksum of each is in the manifest.
        self._archive.writestr(name, data)
        self._checksums[name] = hashlib.sha256(data).hexdigest()

    def finish(self) -> None:
        """Write the manifest, without which a file is no backup."""
        manifest = {
            "format": FORMAT,
            "record_format": RECORD_FORMAT,
            "release": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "sha256": self._checksums,
        }
        self._archive.writestr(MANIFEST, dump_json(manifest))


class BackupReader:
    """Reads a backup whose manifest this release understands.

    Raises:
        IncompatibleFormatError: If a later release made it.
        CorruptDataError: If it is not a backup, or is damaged.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        manifest = json.loads(self._read(MANIFEST))
        self.created: str = manifest["created"]
        self.release: str = manifest["release"]
        self._checksums: Mapping[str, str] = manifest["sha256"]
        if manifest["format"] > FORMAT or manifest["record_format"] > RECORD_FORMAT:
            raise IncompatibleFormatError(
                f"the backup was made by release {self.release} and has format "
                f"{manifest['format']} with records of format {manifest['record_format']}; release "
                f"{__version__} reads formats up to {FORMAT} and {RECORD_FORMAT}: run the later "
                "release"
            )

    def verify(self) -> None:
        """Read every member once, so that a damaged file is refused before anything is changed.

        Raises:
            CorruptDataError: If one is missing or damaged.
        """
        for name in self._checksums:
            self.read(name)

    def read(self, name: str) -> bytes:
        """One member.

        Raises:
            CorruptDataError: If it is missing or damaged.
        """
        data = self._read(name)
        if hashlib.sha256(data).hexdigest() != self._checksums.get(name):
            raise CorruptDataError(f"{self._archive.filename}: {name} fails its checksum")
        return data

    def _read(self, name: str) -> bytes:
        try:
            member = self._archive.getinfo(name)
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
                raise zipfile.BadZipFile("not stored as a backup is")
            return self._archive.read(member)
        except (*_DAMAGE, OSError) as error:
            raise CorruptDataError(
                f"{self._archive.filename}: {name} is missing or damaged"
            ) from error


@contextmanager
def new_backup(path: Path) -> Generator[BackupWriter, None, None]:
    """A file that is at its path once it is complete, and readable by its owner only.

    Raises:
        ConflictError: If there is a file already.
    """
    if path.exists():
        raise ConflictError(f"{path} exists already; a backup never replaces a file")
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:
        with zipfile.ZipFile(file, "w") as archive:
            writer = BackupWriter(archive)
            yield writer
            writer.finish()
        file.flush()
        os.fsync(file.fileno())
        # A link, since a file of this name may be there by now.
        os.link(file.name, path)


@contextmanager
def open_backup(path: Path) -> Iterator[BackupReader]:
    """A backup that `new_backup` wrote.

    Raises:
        IncompatibleFormatError: If a later release made it.
        CorruptDataError: If it is not a backup, or is damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise CorruptDataError(
            f"{path}: expected a complete file of `stitchwork backup`, got another or a part of one"
        ) from error
    with archive:
        try:
            yield BackupReader(archive)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptDataError(f"{path}: its content is not that of a backup") from error


def dump_json(value: Any) -> bytes:
    """A value as JSON; texts may hold bytes that are not UTF-8, see `text`."""
    return json.dumps(value, separators=(",", ":")).encode()


def text(data: bytes) -> str:
    """Bytes as a text that JSON can hold, also if they are not UTF-8."""
    return data.decode("utf-8", "surrogateescape")


def raw(value: str) -> bytes:
    """The inverse of `text`."""
    return value.encode("utf-8", "surrogateescape")
