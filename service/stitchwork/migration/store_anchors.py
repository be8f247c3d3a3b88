"""Anchors from a store itself: chosen, embedded by the new model, and registered."""

from typing import TYPE_CHECKING, Any, Final

from stitchwork.errors import ConflictError, InvalidInputError, UnknownResourceError
from stitchwork.migration.store import VectorStore
from stitchwork.migration.store_sample import TextReader, read_sample

if TYPE_CHECKING:
    from stitchwork.client import Stitchwork

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

    Raises:
        ConflictError: If one of the spaces exists already.
        InvalidInputError: If fewer rows with different texts can be chosen.
    """
    for space in (source_space, target_space):
        if _exists(client, space):
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
    client.put_anchor_set(
        anchor_set, "text", items=chosen.available_texts(), ids=[str(id_) for id_ in chosen.ids]
    )
    client.put_space(source_space, anchor_set, anchors=chosen.vectors)
    client.put_space(target_space, anchor_set, encoder=encoder)
    return client.wait("spaces", target_space)


def anchor_ids(client: "Stitchwork", space: str) -> frozenset[str]:
    """Ids of the anchors of a space; none where its set has no ids."""
    record = client.get("anchor-sets", client.get("spaces", space)["anchor_set"])
    return frozenset(record.get("ids") or ())


def _exists(client: "Stitchwork", space: str) -> bool:
    try:
        client.get("spaces", space)
    except UnknownResourceError:
        return False
    return True
