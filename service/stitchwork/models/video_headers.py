"""Sizes in the headers of AV1 and HEVC, the two codecs of AVIF and HEIF files.

Names of syntax elements are those of the AV1 bitstream specification (5.5, 5.9) and of ITU-T H.265
(7.3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

MAX_UNITS: Final = 20_000
"""Units of coded data that are read of a file; photos have a few hundred."""
SEQUENCE_HEADER, FRAME_HEADER, FRAME = 1, 3, 6
"""Types of the units of AV1."""
PARAMETER_SET: Final = 33
"""Type of the units of HEVC that have the size of the image."""
HEADER_BYTES: Final = 512
"""Bytes of a unit that are read: headers end long before."""
MAX_PADDING: Final = 63
"""Pixels by which HEVC pads a side; a decoded image may be larger than its bound by so much."""
SELECT: Final = 2
"""Value of a setting of AV1 that each frame chooses."""
SWITCH_FRAME: Final = 3


class UnitBudget:
    """Bounds the units that are read of a file."""

    def __init__(self) -> None:
        self._left = MAX_UNITS

    def take(self) -> None:
        """Count one unit.

        Raises:
            ValueError: If there are more than `MAX_UNITS`.
        """
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"expected at most {MAX_UNITS} units of coded data, got more")


class BitReader:
    """Reads numbers of any bits, most significant first."""

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data)
        self._left = 8 * len(data)

    def read(self, bits: int) -> int:
        """The next number of so many bits; 0 for none.

        Raises:
            ValueError: If the data end before.
        """
        self._left -= bits
        if self._left < 0:
            raise ValueError("the data end within a header")
        return self._number >> self._left & ((1 << bits) - 1)

    def exp_golomb(self) -> int:
        """The next number of the code `ue(v)` of HEVC, `uvlc()` of AV1."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)


@dataclass(frozen=True, slots=True)
class SequenceHeader:
    """What the size of a frame of AV1 depends on."""

    width: int
    height: int
    width_bits: int
    height_bits: int
    is_reduced: bool
    has_frame_times: bool
    frame_time_bits: int
    frame_id_bits: int
    screen_content: int
    integer_motion: int


def av1_size(data: bytes, budget: UnitBudget) -> tuple[int, int]:
    """Width and height that a decoder of AV1 allocates for the frames of some data.

    Raises:
        ValueError: If there is no sequence header.
    """
    sizes, header = [], None
    for kind, unit in _av1_units(data):
        budget.take()
        if kind == SEQUENCE_HEADER:
            header = _sequence_header(BitReader(unit[:HEADER_BYTES]))
            sizes.append((header.width, header.height))
        elif (
            kind in (FRAME_HEADER, FRAME)
            and header is not None
            and _overrides_size(BitReader(unit[:HEADER_BYTES]), header)
        ):
            # The size follows later in the header, and may be anything of so many bits.
            sizes.append((1 << header.width_bits, 1 << header.height_bits))
    if not sizes:
        raise ValueError("expected a sequence header of AV1, got none")
    return max(size[0] for size in sizes), max(size[1] for size in sizes)


def hevc_size(configuration: bytes, data: bytes, budget: UnitBudget) -> tuple[int, int]:
    """Width and height that a decoder of HEVC allocates for an image.

    Args:
        configuration: Content of its `hvcC` box.
        data: Its units, each after its length.
        budget: Bounds the units.

    Raises:
        IndexError: If the configuration is cut short.
        ValueError: If there is no parameter set with a size.
    """
    sizes, length_bytes = [], (configuration[21] & 3) + 1
    for unit in chain(_configured_units(configuration), _sized_units(data, length_bytes)):
        budget.take()
        if unit[0] >> 1 & 63 == PARAMETER_SET:
            # Three bytes 0, 0, 3 stand for two bytes 0.
            raw = unit[2:HEADER_BYTES].replace(b"\0\0\3", b"\0\0")
            sizes.append(_parameter_set_size(BitReader(raw)))
    if not sizes:
        raise ValueError("expected a sequence parameter set of HEVC, got none")
    return max(size[0] for size in sizes), max(size[1] for size in sizes)


def _av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and contents of the units (OBUs) of AV1."""
    position = 0
    while position < len(data):
        header = data[position]
        position += 2 if header & 4 else 1
        size = len(data) - position
        if header & 2:
            size = shift = 0
            while True:
                byte = data[position]
                position += 1
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128 or shift > 56:
                    break
        yield header >> 3 & 15, data[position : position + min(size, HEADER_BYTES)]
        position += size


def _sequence_header(bits: BitReader) -> SequenceHeader:
    bits.read(3)  # seq_profile
    bits.read(1)  # still_picture
    is_reduced = bool(bits.read(1))
    has_timing = has_model = is_equal = buffer_bits = time_bits = 0
    if is_reduced:
        bits.read(5)  # seq_level_idx
    else:
        has_timing = bits.read(1)
        if has_timing:
            bits.read(64)  # num_units_in_display_tick, time_scale
            is_equal = bits.read(1)
            if is_equal:
                bits.exp_golomb()
            has_model = bits.read(1)
            if has_model:
                buffer_bits = bits.read(5) + 1
                bits.read(37)  # num_units_in_decoding_tick, buffer_removal_time_length_minus_1
                time_bits = bits.read(5) + 1
        has_delay = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)  # operating_point_idc
            if bits.read(5) > 7:  # seq_level_idx
                bits.read(1)  # seq_tier
            if has_model and bits.read(1):
                bits.read(2 * buffer_bits + 1)
            if has_delay and bits.read(1):
                bits.read(4)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(width_bits) + 1, bits.read(height_bits) + 1
    if is_reduced:
        return SequenceHeader(width, height, width_bits, height_bits, True, False, 0, 0, 0, 0)
    id_bits = 0
    if bits.read(1):  # frame_id_numbers_present_flag
        id_bits = bits.read(4) + bits.read(3) + 3
    bits.read(7)  # use_128x128_superblock to enable_dual_filter
    has_order = bits.read(1)
    if has_order:
        bits.read(2)  # enable_jnt_comp, enable_ref_frame_mvs
    screen_content = SELECT if bits.read(1) else bits.read(1)
    integer_motion = SELECT
    if screen_content and not bits.read(1):
        integer_motion = bits.read(1)
    return SequenceHeader(
        width,
        height,
        width_bits,
        height_bits,
        False,
        bool(has_model and not is_equal),
        time_bits,
        id_bits,
        screen_content,
        integer_motion,
    )


def _overrides_size(bits: BitReader, header: SequenceHeader) -> bool:
    """Whether a frame has a size that differs from that of its sequence."""
    if header.is_reduced:
        return False
    if bits.read(1):  # show_existing_frame
        return False
    frame_type, is_visible = bits.read(2), bits.read(1)
    if is_visible and header.has_frame_times:
        bits.read(header.frame_time_bits)
    if not is_visible:
        bits.read(1)  # showable_frame
    if frame_type == SWITCH_FRAME:
        return True
    if not (frame_type == 0 and is_visible):
        bits.read(1)  # error_resilient_mode
    bits.read(1)  # disable_cdf_update
    screen_content = bits.read(1) if header.screen_content == SELECT else header.screen_content
    if screen_content and header.integer_motion == SELECT:
        bits.read(1)  # force_integer_mv
    bits.read(header.frame_id_bits)
    return bool(bits.read(1))


def _configured_units(configuration: bytes) -> Iterator[bytes]:
    """The units in an `hvcC` box."""
    position = 23
    for _ in range(configuration[22]):
        count = int.from_bytes(configuration[position + 1 : position + 3])
        position += 3
        for _ in range(count):
            size = int.from_bytes(configuration[position : position + 2])
            position += 2
            if not 2 < size <= len(configuration) - position:
                raise ValueError(f"a unit of {size} bytes")
            yield configuration[position : position + size]
            position += size


def _sized_units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """The first bytes of units that come after their lengths."""
    position = 0
    while position + length_bytes < len(data):
        size = int.from_bytes(data[position : position + length_bytes])
        position += length_bytes
        if size:
            yield data[position : position + min(size, HEADER_BYTES)]
        position += size


def _parameter_set_size(bits: BitReader) -> tuple[int, int]:
    bits.read(4)  # sps_video_parameter_set_id
    layers = bits.read(3)  # sps_max_sub_layers_minus1
    bits.read(1)
    bits.read(88)  # general profile, tier and flags
    bits.read(8)  # general_level_idc
    flags = [(bits.read(1), bits.read(1)) for _ in range(layers)]
    if layers:
        bits.read(2 * (8 - layers))
    for has_profile, has_level in flags:
        bits.read(88 * has_profile + 8 * has_level)
    bits.exp_golomb()  # sps_seq_parameter_set_id
    chroma_format = bits.exp_golomb()
    if chroma_format == 3:
        bits.read(1)  # separate_colour_plane_flag
    width, height = bits.exp_golomb(), bits.exp_golomb()
    if bits.read(1):  # conformance_window_flag
        left, right, top, bottom = (bits.exp_golomb() for _ in range(4))
        unit_x, unit_y = 2 if chroma_format in (1, 2) else 1, 2 if chroma_format == 1 else 1
        # Images are padded to whole blocks.
        width -= min(unit_x * (left + right), MAX_PADDING)
        height -= min(unit_y * (top + bottom), MAX_PADDING)
    return width, height
