"""Opens stores by their URLs or paths."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from stitchwork.errors import InvalidInputError
from stitchwork.migration.store import VectorStore


class Connector(NamedTuple):
    """A kind of store.

    Attributes:
        location: Its module and class, as `module:class`.
        form: How it is written.
        options: What may follow a `?`, each with the name of its argument.
        extra: The extra that installs its client; empty if it needs none.
        suffixes: Of paths that are of this kind.
    """

    location: str
    form: str
    options: dict[str, str]
    extra: str = ""
    suffixes: tuple[str, ...] = ()


CONNECTORS: Final = (
    Connector(
        "parquet_store:ParquetStore",
        "rows.parquet or folder/",
        {"id": "id_column", "column": "column"},
        "parquet",
        (".parquet", ""),
    ),
    Connector(
        "array_store:ArrayStore",
        "rows.npy",
        {"ids": "ids"},
        suffixes=(".npy", ".npz", ".safetensors"),
    ),
    Connector(
        "json_lines_store:JsonLinesStore",
        "rows.jsonl",
        {"id": "id_field", "column": "column"},
        suffixes=(".jsonl", ".ndjson"),
    ),
)


def open_store(url: str) -> VectorStore:
    """Open a store.

    Args:
        url: A path or URL, with options after a `?`, such as `rows.parquet?id=key`.

    Raises:
        InvalidInputError: If it is of no known kind, has an unknown option, or its client is not
            installed.
    """
    path, options = _split_path(url)
    connector = _connector(url, path)
    unknown = set(options) - set(connector.options)
    if unknown:
        raise InvalidInputError(
            f"{path}: expected the options {', '.join(connector.options)}, got "
            f"{', '.join(sorted(unknown))}"
        )
    arguments: dict[str, Any] = {connector.options[name]: text for name, text in options.items()}
    if "ids" in arguments:
        arguments["ids"] = Path(arguments["ids"])
    store: VectorStore = _load(connector)(Path(path), url, **arguments)
    return store


def state_folder(url: str) -> Path:
    """The default folder of the checkpoint of a move to a store: beside a file."""
    path, _ = _split_path(url)
    target = Path(path)
    return target.with_name(target.name + ".migration")


def _split_path(url: str) -> tuple[str, dict[str, str]]:
    """A path and its options; a path may contain a `?` that no option follows."""
    path, mark, query = url.rpartition("?")
    if not mark or "=" not in query or Path(url).exists():
        return url, {}
    return path, dict(parse_qsl(query, keep_blank_values=True))


def _connector(url: str, path: str) -> Connector:
    suffix = Path(path).suffix.lower()
    if not urlsplit(url).scheme:
        if Path(path).is_dir() or path.endswith("/"):
            suffix = ""
        for connector in CONNECTORS:
            if suffix in connector.suffixes:
                return connector
    forms = ", ".join(connector.form for connector in CONNECTORS)
    raise InvalidInputError(f"expected a store as {forms}, got {path}")


def _load(connector: Connector) -> Callable[..., Any]:
    module, _, name = connector.location.partition(":")
    try:
        loaded = import_module(f"stitchwork.migration.{module}")
    except ModuleNotFoundError as error:
        if not connector.extra or (error.name or "").startswith("stitchwork"):
            raise
        raise InvalidInputError(
            f"{connector.form} needs {error.name}: pip install 'stitchwork[{connector.extra}]'"
        ) from error
    store: Callable[..., Any] = getattr(loaded, name)
    return store
