"""Sizes of the images that AVIF and HEIF files hold in coded form, which decoders allocate.

A container declares the size of an image apart from the coded data, and decoders trust the data.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from stitchwork.models.iso_boxes import CodedImage, ItemTable, iter_boxes, read_items, read_tracks
from stitchwork.models.video_headers import UnitBudget, av1_size, hevc_size

MAX_PARTS: Final = 20_000
"""Images that one image may be made of; a photo of a phone has some hundred tiles."""
DERIVED: Final = (b"grid", b"iovl", b"iden")
"""Types of images that are made of others."""


class CodedSize(NamedTuple):
    """What is decoded for an image.

    Attributes:
        width: Width of the largest coded image that it is made of.
        height: Height of the same.
        pixels: Pixels of all of them.
    """

    width: int
    height: int
    pixels: int


def coded_sizes(data: bytes) -> list[CodedSize]:
    """What decoders allocate for the image of an AVIF or HEIF file, and for its masks.

    Args:
        data: Content of the file.

    Returns:
        Sizes of which each is to be bounded.

    Raises:
        LookupError: If the file is corrupt.
        ValueError: As LookupError.
    """
    sizes, budget = list[CodedSize](), UnitBudget()
    for box in iter_boxes(data):
        if box.kind == b"meta":
            sizes += _ItemSizes(read_items(data, box), budget).sizes()
        elif box.kind == b"moov":
            sizes += [_total([_coded_size(s, budget)]) for s in read_tracks(data, box)]
    return sizes


class _ItemSizes:
    """Sizes of the items of a file; each is read once, however often it is used."""

    def __init__(self, items: ItemTable, budget: UnitBudget) -> None:
        self._items = items
        self._budget = budget
        self._read: dict[int, tuple[int, int]] = {}

    def sizes(self) -> list[CodedSize]:
        """Sizes of the primary image, of its masks, and of the masks of its tiles together."""
        primary = self._items.primary
        parts, canvases = self._parts([primary])
        masks = {
            item: targets
            for (kind, item), targets in self._items.references.items()
            if kind == b"auxl"
        }
        own = [item for item, targets in masks.items() if primary in targets]
        tiles = {*parts} - {primary}
        of_tiles = [item for item, targets in masks.items() if not tiles.isdisjoint(targets)]
        sizes = [self._total(parts), *canvases]
        for group in [[item] for item in own] + ([of_tiles] if of_tiles else []):
            parts, canvases = self._parts(group)
            sizes += [self._total(parts), *canvases]
        return sizes

    def _parts(self, items: Sequence[int]) -> tuple[list[int], list[CodedSize]]:
        """The coded images that items are made of, as often as they are used, and the canvases."""
        parts, canvases, remaining = list[int](), list[CodedSize](), list(items)
        for _ in range(MAX_PARTS):
            if not remaining:
                return parts, canvases
            item = remaining.pop()
            if self._items.kinds[item] in DERIVED:
                canvases += self._canvas(item)
                remaining += self._items.references.get((b"dimg", item), [])
            else:
                parts.append(item)
        raise ValueError(f"expected an image of at most {MAX_PARTS} parts, got more")

    def _canvas(self, item: int) -> list[CodedSize]:
        """The size of a grid or an overlay, which its own data declare."""
        kind, data = self._items.kinds[item], self._items.data(item)
        if kind == b"iden":
            return []
        start, size = 4 if kind == b"grid" else 10, 4 if data[1] & 1 else 2
        width = int.from_bytes(data[start : start + size])
        height = int.from_bytes(data[start + size : start + 2 * size])
        return [_total([(width, height)])]

    def _total(self, parts: Sequence[int]) -> CodedSize:
        for item in parts:
            if item not in self._read:
                self._read[item] = _coded_size(self._items.coded(item), self._budget)
        return _total([self._read[item] for item in parts])


def _total(sizes: Sequence[tuple[int, int]]) -> CodedSize:
    if not sizes:
        raise ValueError("expected an image with data, got none")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return CodedSize(width, height, sum(width * height for width, height in sizes))


def _coded_size(image: CodedImage, budget: UnitBudget) -> tuple[int, int]:
    match image.kind:
        case b"av01":
            return av1_size(image.data, budget)
        case b"hvc1" | b"hev1":
            return hevc_size(image.configuration, image.data, budget)
    raise ValueError(f"expected images of AV1 or HEVC, got {image.kind!r}")
