"""Opens stores by their URLs or paths."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from stitchwork.addresses import without_password
from stitchwork.errors import InvalidInputError, StitchworkError
from stitchwork.migration.store import VectorStore


class Connector(NamedTuple):
    """A kind of store.

    Attributes:
        location: Its module and class, as `module:class`.
        form: How it is written.
        options: What may follow a `?`, each with the name of its argument.
        schemes: Beginnings of URLs that are of this kind.
        suffixes: Of paths that are of this kind.
        extra: The extra that installs its client; empty if it needs none.
    """

    location: str
    form: str
    options: dict[str, str]
    schemes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    extra: str = ""


JSON_LINES: Final = (".jsonl", ".ndjson")
LANCE: Final = ".lance"
"""Suffix of data sets that are folders."""
CONNECTORS: Final = (
    Connector(
        "parquet_store:ParquetStore",
        "rows.parquet or folder/",
        {"id": "id_column", "column": "column"},
        suffixes=(".parquet", ""),
        extra="parquet",
    ),
    Connector(
        "object_store:ObjectStore",
        "s3://BUCKET/FOLDER/",
        {"id": "id_column", "column": "column"},
        schemes=("s3",),
        extra="parquet",
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
        suffixes=JSON_LINES,
    ),
    Connector(
        "lancedb_store:LanceDataSet",
        "rows.lance",
        {"id": "id_column", "column": "column"},
        suffixes=(LANCE,),
        extra="lancedb",
    ),
    Connector(
        "postgresql_store:PostgresqlStore",
        "postgresql://HOST/DATABASE?table=NAME",
        {"table": "table", "id": "id_column", "column": "column"},
        schemes=("postgresql", "postgres"),
        extra="postgresql",
    ),
    Connector(
        "qdrant_store:QdrantStore",
        "qdrant:FOLDER-OR-URL?collection=NAME",
        {"collection": "collection", "column": "vector"},
        schemes=("qdrant",),
        extra="qdrant",
    ),
    Connector(
        "chroma_store:ChromaStore",
        "chroma:FOLDER-OR-URL?collection=NAME",
        {"collection": "collection"},
        schemes=("chroma",),
        extra="chroma",
    ),
    Connector(
        "lancedb_store:LancedbStore",
        "lancedb:FOLDER-OR-URL?table=NAME",
        {"table": "table", "id": "id_column", "column": "column"},
        schemes=("lancedb",),
        extra="lancedb",
    ),
    Connector(
        "milvus_store:MilvusStore",
        "milvus:FILE.db-OR-URL?collection=NAME",
        {"collection": "collection", "column": "column"},
        schemes=("milvus",),
        extra="milvus",
    ),
    Connector(
        "redis_store:RedisStore",
        "redis://HOST?index=NAME",
        {"index": "index", "column": "column"},
        schemes=("redis", "rediss", "unix"),
        extra="redis",
    ),
)
WITH_PORTS: Final = frozenset({"http", "https", "tcp", "postgresql", "postgres", "redis", "rediss"})
"""Schemes of addresses that have a host and a port."""
DIGEST_DIGITS: Final = 8
REQUIRED: Final = ("table", "collection", "index")
"""Options without which it is not clear what the store is."""


def open_store(url: str) -> VectorStore:
    """Open a store.

    Args:
        url: A path or URL, with options after a `?`, such as `rows.parquet?id=key`.

    Raises:
        InvalidInputError: If it is of no known kind, has an unknown option, or its client is not
            installed.
        UnavailableError: If its server cannot be reached.
    """
    location, query = split_url(url)
    return _open(url, query, *_connector(location))


def open_parquet_file(folder: str, name: str) -> VectorStore:
    """Open a Parquet file in a folder; its name is never taken for a URL.

    Args:
        folder: The path of the folder, with the options of the file.
        name: The path of the file in the folder.

    Raises:
        InvalidInputError: If there is an unknown option, or pyarrow is not installed.
    """
    location, query = split_url(folder)
    path = str(Path(location) / name)
    return _open(f"{path}?{urlencode(query)}" if query else path, query, CONNECTORS[0], path)


def _open(url: str, query: dict[str, str], connector: Connector, address: str) -> VectorStore:
    own = {name: text for name, text in query.items() if name in connector.options}
    others = {name: text for name, text in query.items() if name not in connector.options}
    name = without_password(url)
    missing = [option for option in REQUIRED if option in connector.options and option not in own]
    if missing:
        raise InvalidInputError(f"{name}: expected {connector.form}, got no {missing[0]}")
    if others and "postgresql" not in connector.schemes:
        raise InvalidInputError(
            f"{name}: expected the options {', '.join(connector.options)}, got "
            f"{', '.join(sorted(others))}"
        )
    _check_port(address, name)
    if others:
        # Such as sslmode, which libpq reads.
        address = f"{address}?{urlencode(others)}"
    arguments: dict[str, Any] = {connector.options[option]: text for option, text in own.items()}
    if not connector.schemes:
        store: VectorStore = _load(connector)(Path(address), name, **arguments)
        return store
    loaded = _load(connector)
    try:
        store = loaded(address, name, **arguments)
    except Exception as error:
        if (translated := loaded.client_error(name, error)) is not None:
            raise translated from error
        raise
    return store


@contextmanager
def client_errors(*stores: VectorStore) -> Iterator[None]:
    """A context in which errors of the stores' clients become errors of this package."""
    try:
        yield
    except StitchworkError:
        raise
    except Exception as error:
        for store in stores:
            if (translated := store.client_error(store.name, error)) is not None:
                raise translated from error
        raise


def state_folder(url: str) -> Path:
    """The default folder of the checkpoint of a move to a store.

    It is beside a file; of a table or collection it is in the current folder, under its kind, its
    name and a digest of its address.
    """
    location, query = split_url(url)
    connector, address = _connector(location)
    if not connector.schemes:
        return Path(address).with_name(Path(address).name + ".migration")
    names = [query[option] for option in (*REQUIRED, "column") if option in query]
    digest = hashlib.sha256(target_key(url).encode()).hexdigest()[:DIGEST_DIGITS]
    return Path(f"{'.'.join([connector.schemes[0], *names, digest])}.migration")


def target_key(url: str) -> str:
    """Kind, address and name of a store: the same for all spellings of a path.

    Of a store of another kind than these it is the text itself.
    """
    return _key(url, (*REQUIRED, "column"))


def source_key(url: str) -> str:
    """Like `target_key`, with the columns that are read."""
    return _key(url, None)


def _key(url: str, options: Sequence[str] | None) -> str:
    location, query = split_url(url)
    try:
        connector, address = _connector(location)
    except InvalidInputError:
        return url
    kind = connector.location
    address = address.rstrip("/") if "://" in address else str(Path(address).resolve())
    if options is not None:
        query = {name: query[name] for name in options if name in query and connector.schemes}
    return " ".join([kind, without_password(address), urlencode(sorted(query.items()))])


def split_url(url: str) -> tuple[str, dict[str, str]]:
    """A path or URL and its options; a path may contain a `?` that no option follows."""
    location, mark, query = url.rpartition("?")
    if not mark or "=" not in query or Path(url).exists():
        return url, {}
    return location, dict(parse_qsl(query, keep_blank_values=True))


def _connector(location: str) -> tuple[Connector, str]:
    """The kind of a store and its address."""
    scheme, mark, rest = location.partition(":")
    for connector in CONNECTORS:
        if mark and scheme in connector.schemes:
            is_url = rest.startswith("//")
            return connector, location if is_url else rest
    if not urlsplit(location).scheme:
        suffix = Path(location).suffix.lower()
        is_folder = Path(location).is_dir() or location.endswith("/")
        if is_folder and suffix != LANCE:
            suffix = ""
        for connector in CONNECTORS:
            if suffix in connector.suffixes:
                return connector, location
    forms = ", ".join(connector.form for connector in CONNECTORS)
    raise InvalidInputError(f"expected a store as one of {forms}, got {without_password(location)}")


def _check_port(address: str, name: str) -> None:
    """Check that the host and port of a URL are no part of a password that is not escaped.

    Raises:
        InvalidInputError: If they are; the message has none of it.
    """
    scheme, _, rest = address.partition("://")
    if scheme not in WITH_PORTS:
        return
    is_http = scheme in ("http", "https")
    # libpq accepts a ? in a password.
    end = r"/" if scheme in ("postgresql", "postgres") else r"[/?#]"
    authority = re.split(end, rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    # Only the paths of HTTP have an @.
    is_path = "@" not in path or (is_http and path.startswith("/"))
    is_valid = is_path or "@" in authority or ":" not in authority
    try:
        for host in authority.rpartition("@")[2].split(","):
            _ = urlsplit(f"//{host}").port
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidInputError(
            f"{name}: expected a URL with a host and a port; in its password, write %2F for /, %3F "
            "for ?, %23 for # and %40 for @"
        )


def _load(connector: Connector) -> Any:
    module, _, name = connector.location.partition(":")
    try:
        loaded = import_module(f"stitchwork.migration.{module}")
    except ModuleNotFoundError as error:
        if not connector.extra or (error.name or "").startswith("stitchwork"):
            raise
        raise InvalidInputError(
            f"{connector.form} needs {error.name}: pip install 'stitchwork[{connector.extra}]'"
        ) from error
    return getattr(loaded, name)
