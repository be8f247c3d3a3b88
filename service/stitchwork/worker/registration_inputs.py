"""The raw inputs of registrations, cached while their parts are embedded."""

from collections.abc import Sequence
from typing import Final

from cachetools import LRUCache

from stitchwork.errors import ErrorCode, StitchworkError
from stitchwork.registry.registry import Registry
from stitchwork.resources import Arrays, Item, Modality, Registration, unpack_items

CACHED_INPUTS: Final = 2
"""Registrations whose inputs are cached between chunks."""


class RegistrationInputs:
    """Reads the inputs that registrations embed.

    Args:
        registry: Stores them.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._cache: LRUCache[tuple[str, str], Arrays] = LRUCache(CACHED_INPUTS)

    def items(
        self, registration: Registration, modality: Modality, indices: Sequence[int]
    ) -> list[Item]:
        """The items of a registration with these indices, in ascending order.

        Args:
            registration: A space, whose items are those of its anchor set, or a head.
            modality: The modality of the items.
            indices: The indices.
        """
        arrays = self._arrays(registration)
        if isinstance(indices, range):
            return unpack_items(arrays, modality, indices.start, indices.stop)
        return [unpack_items(arrays, modality, i, i + 1)[0] for i in indices]

    def _arrays(self, registration: Registration) -> Arrays:
        key = (registration.id, registration.version)
        arrays = self._cache.get(key)
        if arrays is None:
            if registration.kind == "space":
                sets = self._registry.anchor_sets
                (anchor_set,), _ = sets.ready(registration.declared["anchor_set"])
                arrays = sets.arrays(anchor_set.id, anchor_set.version)
            else:
                arrays = self._registry.heads.inputs(*key)
            self._cache[key] = arrays
        return arrays


def item_error(error: StitchworkError, indices: Sequence[int]) -> StitchworkError:
    """The error of an item of a part, by its index among all items."""
    position = (error.pointer or "").removeprefix("/items/")
    index = indices[int(position) if position.isdecimal() else 0]
    message = f"item {index}: {error.message}"
    if error.code == ErrorCode.TOO_MANY_TOKENS:
        message += ': register the space with "truncate": true in its encoder'
    return type(error)(message, pointer=f"/items/{index}", code=error.code)
