"""Boxes of ISO base media files: the coded images of AVIF and HEIF files, and what they belong to.

Only what names the place of coded data is read. Decoders read the rest, and refuse what is wrong
with it.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

CONFIGURATIONS: Final = (b"av1C", b"hvcC")
SAMPLE_ENTRY_BYTES: Final = 78
"""Fields of a visual sample entry before its boxes."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box: its type and content, the header not included."""

    kind: bytes
    content: bytes

    def children(self, start: int = 0) -> "list[Box]":
        """The boxes in its content, from an offset on."""
        return list(iter_boxes(self.content[start:]))

    def find(self, *path: bytes) -> "list[Box]":
        """The boxes under a path of containers."""
        boxes = [box for box in self.children() if box.kind == path[0]]
        return [inner for box in boxes for inner in box.find(*path[1:])] if path[1:] else boxes


@dataclass(frozen=True, slots=True)
class CodedImage:
    """The coded data of an image: its configuration box, and what a decoder gets."""

    kind: bytes
    configuration: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class ItemTable:
    """The items of a file.

    Attributes:
        primary: The item that is the image of the file.
        kinds: Types of the items.
        references: Referenced items by the type of the reference and the item that has it.
        properties: Property boxes of each item.
        places: Places of the data of the items.
    """

    primary: int
    kinds: Mapping[int, bytes]
    references: Mapping[tuple[bytes, int], Sequence[int]]
    properties: Mapping[int, Sequence[Box]]
    places: Mapping[int, Sequence[bytes | memoryview]]

    def data(self, item: int) -> bytes:
        """The data of an item."""
        return b"".join(self.places[item])

    def coded(self, item: int) -> CodedImage:
        """The coded data of an item."""
        boxes = [box.content for box in self.properties.get(item, ()) if box.kind in CONFIGURATIONS]
        return CodedImage(self.kinds[item], boxes[0] if boxes else b"", self.data(item))


def iter_boxes(data: bytes) -> Iterator[Box]:
    """The boxes at the top of data.

    Raises:
        ValueError: If a box is longer than the data.
    """
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        stop = len(data) if size == 0 else position + size
        if not start <= stop <= len(data):
            raise ValueError(f"a box of {size} bytes at {position} of {len(data)}")
        yield Box(kind, data[start:stop])
        position = stop


def read_items(data: bytes, meta: Box) -> ItemTable:
    """The items of a file.

    Args:
        data: Content of the file.
        meta: Its `meta` box.

    Raises:
        ValueError: If a table is missing or twice.
    """
    boxes = {box.kind: box for box in meta.children(4)}
    if len(boxes) < len(meta.children(4)):
        raise ValueError("a table of items is there twice")
    missing = {b"pitm", b"iloc", b"iinf", b"iprp"} - boxes.keys()
    if missing:
        raise ValueError(f"a table of items is missing: {missing}")
    reader = _Reader(boxes[b"pitm"].content)
    primary = reader.number(2 if reader.version == 0 else 4)
    inner = boxes[b"idat"].content if b"idat" in boxes else b""
    return ItemTable(
        primary=primary,
        kinds=_kinds(boxes[b"iinf"]),
        references=_references(boxes[b"iref"]) if b"iref" in boxes else {},
        properties=_properties(boxes[b"iprp"]),
        places=_places(boxes[b"iloc"], data, inner),
    )


def read_tracks(data: bytes, movie: Box) -> list[CodedImage]:
    """The first sample of each video track of an image sequence.

    Args:
        data: Content of the file.
        movie: Its `moov` box.
    """
    samples = []
    for table in movie.find(b"trak", b"mdia", b"minf", b"stbl"):
        boxes = {box.kind: box for box in table.children()}
        entries = list(iter_boxes(boxes[b"stsd"].content[8:]))
        sizes, offsets = _Reader(boxes[b"stsz"].content), b"co64" if b"co64" in boxes else b"stco"
        size = sizes.number(4)
        if size == 0 and sizes.number(4):
            size = sizes.number(4)
        chunks = _Reader(boxes[offsets].content)
        if not chunks.number(4):
            continue
        start = chunks.number(8 if offsets == b"co64" else 4)
        inner = entries[0].children(SAMPLE_ENTRY_BYTES)
        configurations = [box.content for box in inner if box.kind in CONFIGURATIONS]
        configuration = configurations[0] if configurations else b""
        sample = _slice(data, start, size)
        samples.append(CodedImage(entries[0].kind, configuration, sample))
    return samples


class _Numbers:
    """Reads the numbers of a box."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def number(self, size: int) -> int:
        """The next number of so many bytes; 0 for none."""
        return int.from_bytes(self.raw(size))

    def raw(self, size: int) -> bytes:
        """The next bytes."""
        raw = _slice(self._content, self._position, size)
        self._position += size
        return raw

    @property
    def rest(self) -> bytes:
        """What follows."""
        return self._content[self._position :]


class _Reader(_Numbers):
    """Reads the numbers of a full box, which begins with a version and flags."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.version, self.flags = self.number(1), self.number(3)


def _slice(data: bytes, start: int, size: int) -> bytes:
    if start + size > len(data):
        raise ValueError(f"{size} bytes at {start} of {len(data)}")
    return data[start : start + size]


def _kinds(box: Box) -> dict[int, bytes]:
    reader = _Reader(box.content)
    reader.number(2 if reader.version == 0 else 4)
    kinds = {}
    for entry in iter_boxes(reader.rest):
        fields = _Reader(entry.content)
        item = fields.number(4 if fields.version == 3 else 2)
        fields.number(2)
        kinds[item] = fields.raw(4)
    return kinds


def _references(box: Box) -> dict[tuple[bytes, int], list[int]]:
    reader = _Reader(box.content)
    size = 2 if reader.version == 0 else 4
    references: dict[tuple[bytes, int], list[int]] = {}
    for entry in iter_boxes(reader.rest):
        numbers = _Numbers(entry.content)
        source, count = numbers.number(size), numbers.number(2)
        targets = [numbers.number(size) for _ in range(count)]
        references.setdefault((entry.kind, source), []).extend(targets)
    return references


def _properties(box: Box) -> dict[int, list[Box]]:
    properties = [box for container in box.find(b"ipco") for box in container.children()]
    result: dict[int, list[Box]] = {}
    for associations in box.find(b"ipma"):
        reader = _Reader(associations.content)
        is_wide = reader.flags & 1
        for _ in range(reader.number(4)):
            item = reader.number(2 if reader.version == 0 else 4)
            for _ in range(reader.number(1)):
                index = reader.number(2) & 0x7FFF if is_wide else reader.number(1) & 0x7F
                if index:
                    result.setdefault(item, []).append(properties[index - 1])
    return result


def _places(box: Box, data: bytes, inner: bytes) -> dict[int, list[memoryview]]:
    """Where the data of items are, in the file or in an `idat` box.

    Raises:
        ValueError: If items have more data than the file, as when they share them.
    """
    reader = _Reader(box.content)
    sizes = reader.number(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if reader.version else 0
    result: dict[int, list[memoryview]] = {}
    total = 0
    for _ in range(reader.number(2 if reader.version < 2 else 4)):
        item = reader.number(2 if reader.version < 2 else 4)
        method = reader.number(2) & 15 if reader.version else 0
        reader.number(2)
        base = reader.number(base_size)
        source = memoryview(inner if method == 1 else data)
        result[item] = []
        for _ in range(reader.number(2)):
            reader.number(index_size)
            start, size = base + reader.number(offset_size), reader.number(length_size)
            if method > 1 or start + size > len(source):
                raise ValueError("an item is made of other items, or ends after the file")
            result[item].append(source[start : start + size if size else None])
            total += len(result[item][-1])
    if total > len(data):
        raise ValueError("items share their data")
    return result
