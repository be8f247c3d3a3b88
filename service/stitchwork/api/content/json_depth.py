"""How deeply JSON is nested, told from its bytes before anything is made of them."""

from typing import Final

import numpy as np

from stitchwork.errors import ErrorCode, InvalidInputError

_QUOTE: Final = ord('"')
_OTHERS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS: Final = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


def refuse(data: bytes, most: int) -> None:
    """Refuse JSON of more levels; what does not open as many lists or objects is not looked at.

    Args:
        data: A JSON document, or what claims to be one.
        most: Levels that it may have; a number has none, a list of numbers one.

    Raises:
        InvalidInputError: If it has more.
    """
    if not _opens_more(data, most):
        return
    found = measured(data)
    if found > most:
        raise InvalidInputError(
            f"expected JSON of at most {most} levels (max_json_depth), got {found}",
            code=ErrorCode.NESTING_TOO_DEEP,
        )


def _opens_more(data: bytes, most: int) -> bool:
    """Whether lists and objects begin more often, texts that hold such a sign included.

    A search is several times as fast as a count, and ends early where there are many.
    """
    found = 0
    for sign in (b"[", b"{"):
        at = data.find(sign)
        while at >= 0:
            found += 1
            if found > most:
                return True
            at = data.find(sign, at + 1)
    return False


def measured(data: bytes) -> int:
    """The levels of a JSON document; brackets in texts are none."""
    if b'\\"' in data:
        # Pairs first: what is left of a run of them belongs to the sign behind it.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    signs = np.frombuffer(data.translate(None, _OTHERS), np.uint8)
    within = np.logical_xor.accumulate(signs == _QUOTE)
    steps = _STEPS[signs]
    steps[within] = 0
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))
