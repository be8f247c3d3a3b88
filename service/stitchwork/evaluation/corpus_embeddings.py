"""Embedding a corpus with the encoders of a running service; results are stored and reused."""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import numpy as np
from rich.progress import Progress

from stitchwork.client import Floats, Stitchwork
from stitchwork.errors import InvalidInputError, MalformedInputError
from stitchwork.evaluation.corpora import Corpus
from stitchwork.evaluation.embedded_corpus import EmbeddedCorpus
from stitchwork.evaluation.known_encoders import EmbeddingTask, embedding_tasks
from stitchwork.evaluation.local_encoders import TextFunction
from stitchwork.resources import Modality

CHUNKS: Final[dict[Modality, int]] = {"image": 256, "text": 512}
"""Inputs in one request: enough for several jobs, so that the worker is never idle, and few enough
to be answered within the timeout."""
LOCAL_CHUNK: Final = 64
ANCHORS: Final = 16
"""An encoder is registered with this many anchors, since the service embeds for spaces only."""


def embed_corpus(
    client: Stitchwork,
    corpus: Corpus,
    encoders: Sequence[str],
    folder: Path,
    bars: Progress,
) -> EmbeddedCorpus:
    """A corpus embedded by each of these encoders; embeddings of an earlier run are reused.

    Args:
        client: A running service that reads models from `known_encoders.model_roots(folder)`.
        corpus: What to embed.
        encoders: As `known_encoders.embedding_tasks` takes them.
        folder: Folder of weights and embeddings: for each encoder and view, a file in a folder
            named after the corpus.
        bars: Progress bars.

    Returns:
        The embeddings of the corpus, and one space for each encoder and view.

    Raises:
        InvalidInputError: If there is no space, or two have the same name.
        StitchworkError: If the service fails or an encoder is not available.
    """
    corpus_folder = folder / corpus.name
    corpus_folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Floats] = dict(corpus.rows)
    modality: dict[str, Modality] = dict.fromkeys(rows, "vector")
    origin = dict.fromkeys(rows, "precomputed")
    for encoder in encoders:
        for task in embedding_tasks(client, corpus, encoder, folder, bars):
            if task.space in rows:
                raise InvalidInputError(
                    f"expected spaces of different names, got {task.space} twice"
                )
            rows[task.space] = _rows(client, task, corpus_folder, bars)
            modality[task.space] = task.view.modality
            origin[task.space] = task.origin
    if not rows:
        raise InvalidInputError(f"{corpus.name}: expected at least one encoder, got none")
    return EmbeddedCorpus(
        corpus.name,
        rows,
        modality,
        corpus.labels,
        corpus.classes,
        corpus.groups,
        corpus.train,
        corpus.test,
        origin,
        corpus.judgements,
    )


def save_embeddings(embedded: EmbeddedCorpus, path: Path) -> None:
    """Write all of it to one .npz file, which `load_corpus` reads as a corpus of embeddings."""
    arrays: dict[str, Any] = {**embedded.rows, "train": embedded.train, "test": embedded.test}
    if embedded.labels is not None:
        arrays |= {"labels": embedded.labels, "classes": np.array(embedded.classes)}
    if embedded.groups is not None:
        arrays["groups"] = embedded.groups
    if embedded.judgements is not None:
        arrays["judgements"] = embedded.judgements
    _write(path, arrays)


def _rows(client: Stitchwork, task: EmbeddingTask, folder: Path, bars: Progress) -> Floats:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", task.space)
    path = folder / f"{name}-{task.key[:16]}.npz"
    if path.exists():
        return _read(path, len(task.view.items))
    bar = bars.add_task(f"{task.space}: embedding", total=len(task.view.items))
    parts = []
    for part in _local_rows(task, task.load) if task.load else _service_rows(client, task):
        parts.append(part)
        bars.advance(bar, len(part))
    rows = np.concatenate(parts).astype(np.float32)
    _write(path, {"rows": rows})
    return rows


def _service_rows(client: Stitchwork, task: EmbeddingTask) -> Iterator[Floats]:
    """The rows, in chunks, from the service; what is registered for this is deleted again."""
    if task.registered is not None:
        yield from _chunks(client, task.registered, task)
        return
    id_ = f"evaluate-{task.key}"
    items = list(dict.fromkeys(cast(Iterable[Any], task.view.items)))[:ANCHORS]
    client.put_anchor_set(id_, task.view.modality, items=items)
    try:
        client.put_space(id_, id_, encoder=task.spec)
        try:
            client.wait("spaces", id_)
            yield from _chunks(client, id_, task)
        finally:
            client.delete("spaces", id_)
    finally:
        client.delete("anchor-sets", id_)


def _chunks(client: Stitchwork, id_: str, task: EmbeddingTask) -> Iterator[Floats]:
    items, size = task.view.items, CHUNKS[task.view.modality]
    for start in range(0, len(items), size):
        yield client.embed(id_, items[start : start + size])


def _local_rows(task: EmbeddingTask, load: Callable[[], TextFunction]) -> Iterator[Floats]:
    """The rows, in chunks, of an encoder that runs in this process."""
    embed, texts = load(), cast(Sequence[str], task.view.items)
    for start in range(0, len(texts), LOCAL_CHUNK):
        yield embed(list(texts[start : start + LOCAL_CHUNK]))


def _read(path: Path, size: int) -> Floats:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as npz:
            rows: Floats = npz["rows"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MalformedInputError(
            f"{path} is damaged; delete it to embed its inputs again"
        ) from error
    if rows.ndim != 2 or len(rows) != size:
        raise MalformedInputError(f"{path}: expected {size} embeddings, got {rows.shape}")
    return rows


def _write(path: Path, arrays: dict[str, Any]) -> None:
    """Write under another name first, so that a file of this name is complete."""
    with TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder) / path.name
        np.savez(file, **arrays)
        file.rename(path)
