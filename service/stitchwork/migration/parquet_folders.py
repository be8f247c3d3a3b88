"""The data of folders of Parquet files."""

from pathlib import Path, PurePath
from typing import Final

HIDDEN: Final = (".", "_")
"""How names begin of files and folders that are no data, as those of Spark and pyarrow."""


def list_parquet_files(folder: Path) -> list[Path]:
    """The Parquet files in a folder and its folders, in the order of their names."""
    paths = [path for path in folder.rglob("*") if is_parquet_file(path.relative_to(folder))]
    return sorted(path for path in paths if path.is_file())


def is_parquet_file(path: PurePath) -> bool:
    """Whether a file is one of Parquet by its path in a folder, and not hidden."""
    is_hidden = any(part.startswith(HIDDEN) for part in path.parts)
    return path.suffix.lower() == ".parquet" and not is_hidden
