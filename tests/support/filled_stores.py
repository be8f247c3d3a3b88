"""Stores of vectors that their own clients fill."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import redis
from numpy.typing import NDArray

Floats = NDArray[np.float32]
KINDS: Final = {
    "qdrant": "collection",
    "chroma": "collection",
    "lancedb": "table",
    "milvus": "collection",
    "redis": "index",
}
"""Kinds of stores of collections, and the options of their URLs that name one."""
NAME: Final = "docs"


def store_url(kind: str, place: str | Path, name: str) -> str:
    """The URL of a collection.

    Args:
        kind: One of `KINDS`.
        place: A folder; of Redis, the URL of the server.
        name: The collection.
    """
    addresses = {"redis": str(place), "milvus": f"milvus:{place}/milvus.db"}
    address = addresses.get(kind, f"{kind}:{place}/{kind}")
    return f"{address}?{KINDS[kind]}={name}"


def fill_store(kind: str, place: str | Path, vectors: Floats, texts: Sequence[str]) -> str:
    """Write rows to a new collection `docs`, each with a vector, a text and its number as a label.

    Returns:
        Its URL.
    """
    _FILLERS[kind](place, vectors, texts)
    return store_url(kind, place, NAME)


def _fill_qdrant(place: str | Path, vectors: Floats, texts: Sequence[str]) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=f"{place}/qdrant")
    parameters = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
    client.create_collection(NAME, parameters)
    points = [
        models.PointStruct(
            id=i if i % 2 else str(uuid.UUID(int=i)),
            vector=vectors[i].tolist(),
            payload={"label": i, "text": text, "more": {"even": i % 2 == 0}},
        )
        for i, text in enumerate(texts)
    ]
    client.upsert(NAME, points)
    client.close()


def _fill_chroma(place: str | Path, vectors: Floats, texts: Sequence[str]) -> None:
    import chromadb
    from chromadb.config import Settings

    settings = Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(f"{place}/chroma", settings)
    configuration: Any = {"hnsw": {"space": "l2"}}
    collection = client.create_collection(
        NAME, embedding_function=None, configuration=configuration, metadata={"topic": "all"}
    )
    metadata: Any = [{"label": i} for i in range(len(texts))]
    size = client.get_max_batch_size()
    for start in range(0, len(texts), size):
        page = slice(start, start + size)
        ids = [f"r{i}" for i in range(len(texts))[page]]
        collection.add(
            ids, embeddings=vectors[page], documents=list(texts[page]), metadatas=metadata[page]
        )


def _fill_lancedb(place: str | Path, vectors: Floats, texts: Sequence[str]) -> None:
    import lancedb
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(vectors).ravel())
    columns = {
        "id": [f"r{i}" for i in range(len(texts))],
        "label": pa.array(range(len(texts)), pa.int16()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        "text": list(texts),
    }
    lancedb.connect(f"{place}/lancedb").create_table(NAME, pa.table(columns))


def _fill_milvus(place: str | Path, vectors: Floats, texts: Sequence[str]) -> None:
    from milvus_lite.server_manager import server_manager_instance
    from pymilvus import DataType, MilvusClient

    path = f"{place}/milvus.db"
    client = MilvusClient(path)
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    schema.add_field("label", DataType.INT32)
    schema.add_field("text", DataType.VARCHAR, max_length=4096)
    indexes = client.prepare_index_params()
    options = {"M": 8, "efConstruction": 64}
    indexes.add_index("vector", index_type="HNSW", metric_type="IP", params=options)
    client.create_collection(NAME, schema=schema, index_params=indexes)
    rows = [
        # Ids with quotes and other than ASCII letters; the field `more` is a dynamic one.
        {"key": f'é"{i}', "vector": vectors[i], "label": i, "text": text, "more": {"n": [i]}}
        for i, text in enumerate(texts)
    ]
    client.insert(NAME, rows)
    client.close()
    server_manager_instance.release_server(path)


def _fill_redis(place: str | Path, vectors: Floats, texts: Sequence[str]) -> None:
    from redis.commands.search.field import NumericField, TextField, VectorField
    from redis.commands.search.index_definition import IndexDefinition, IndexType

    client: Any = redis.Redis.from_url(str(place))
    options = {"TYPE": "FLOAT32", "DIM": vectors.shape[1], "DISTANCE_METRIC": "L2", "M": 8}
    fields = [
        VectorField("vector", "HNSW", options),
        TextField("text", weight=2.0, no_stem=True),
        NumericField("label", sortable=True),
    ]
    definition = IndexDefinition([f"{NAME}:"], index_type=IndexType.HASH)  # type: ignore[no-untyped-call]
    client.ft(NAME).create_index(fields, definition=definition)
    pipeline = client.pipeline(transaction=False)
    for i, text in enumerate(texts):
        fields_ = {"vector": vectors[i].tobytes(), "text": text, "label": i}
        pipeline.hset(f"{NAME}:r{i}", mapping=fields_)
    pipeline.execute()
    client.close()


_FILLERS: Final = {
    "qdrant": _fill_qdrant,
    "chroma": _fill_chroma,
    "lancedb": _fill_lancedb,
    "milvus": _fill_milvus,
    "redis": _fill_redis,
}
