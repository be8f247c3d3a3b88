"""Anchors from a store itself: chosen, embedded by the new model, and registered."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from stitchwork.errors import (
    ConflictError,
    InvalidInputError,
    StitchworkError,
    UnknownResourceError,
)
from stitchwork.migration.row_texts import TextReader
from stitchwork.migration.store import VectorStore
from stitchwork.migration.store_sample import read_sample

if TYPE_CHECKING:
    from stitchwork.client import Stitchwork
    from stitchwork.client.resource_operations import Kind

POOL_FACTOR: Final = 4
MIN_POOL: Final = 4096
"""Rows that anchors are chosen from: four for each, and at least this many."""


def register_anchors(
    client: "Stitchwork",
    store: VectorStore,
    texts: TextReader,
    count: int,
    *,
    anchor_set: str,
    source_space: str,
    target_space: str,
    encoder: dict[str, Any],
    seed: int = 0,
) -> dict[str, Any]:
    """Choose anchors from a store and register them, with the spaces of both models.

    Args:
        client: A client of the service, which embeds the texts.
        store: The store.
        texts: Reads the texts of its rows.
        count: Number of anchors.
        anchor_set: Id of the set; its anchors have the ids of their rows.
        source_space: Id of the space of the store's vectors.
        target_space: Id of the space of the new model.
        encoder: The new model, as a space's encoder.
        seed: Of the pool of rows to choose from.

    Returns:
        The record of the target space.

    Nothing is registered if the new model cannot be used, or if the call is interrupted.

    Raises:
        ConflictError: If one of the spaces exists already.
        InvalidInputError: If fewer rows with different texts can be chosen.
    """
    for space in (source_space, target_space):
        if _exists(client, "spaces", space):
            raise ConflictError(
                f"space {space} exists already: choose another id, or leave out --anchors to use "
                "its own anchors"
            )
    pool = read_sample(store, max(POOL_FACTOR * count, MIN_POOL), seed, texts).with_texts()
    unique = pool.select(list({text: i for i, text in enumerate(pool.texts)}.values()))
    if len(unique.ids) < count:
        raise InvalidInputError(
            f"{store.name}: expected {count} rows with different texts to choose as anchors, got "
            f"{len(unique.ids)}"
        )
    chosen = unique.select(client.choose_anchors(unique.vectors, count))
    with _all_or_nothing(client) as created:
        if not _exists(client, "anchor-sets", anchor_set):
            created.append(("anchor-sets", anchor_set))
        ids = [str(id_) for id_ in chosen.ids]
        client.put_anchor_set(anchor_set, "text", items=chosen.available_texts(), ids=ids)
        created.append(("spaces", target_space))
        client.put_space(target_space, anchor_set, encoder=encoder)
        client.wait("spaces", target_space)
        created.append(("spaces", source_space))
        client.put_space(source_space, anchor_set, anchors=chosen.vectors)
        client.wait("spaces", source_space)
    return client.get("spaces", target_space)


def anchor_ids(client: "Stitchwork", space: str) -> frozenset[str]:
    """Ids of the anchors of a space; none where its set has no ids."""
    record = client.get("anchor-sets", client.get("spaces", space)["anchor_set"])
    return frozenset(record.get("ids") or ())


@contextmanager
def _all_or_nothing(client: "Stitchwork") -> Iterator[list[tuple["Kind", str]]]:
    """A list of resources that are deleted, the last one first, if the context ends early."""
    created: list[tuple[Kind, str]] = []
    try:
        yield created
    except BaseException as error:
        for kind, id_ in reversed(created):
            try:
                client.delete(kind, id_)
            except UnknownResourceError:
                # It was refused.
                continue
            except StitchworkError as failure:
                error.add_note(f"{kind} {id_} could not be deleted: {failure}")
        raise


def _exists(client: "Stitchwork", kind: "Kind", id_: str) -> bool:
    try:
        client.get(kind, id_)
    except UnknownResourceError:
        return False
    return True
