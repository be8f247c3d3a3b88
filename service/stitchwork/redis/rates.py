"""Rates such as `100/minute;64 items/second`: their text, and their form."""

import re
from typing import Final, Literal, NamedTuple, cast, get_args

from stitchwork.errors import InvalidInputError

RateUnit = Literal["requests", "items", "tokens", "pixels"]
RATE: Final = re.compile(
    r"\s*(\d{1,15})\s*(requests|items|tokens|pixels)?\s*(?:/|per)\s*(\d{1,5})?\s*"
    r"(second|minute|hour|day|month|year)s?\s*"
)
WINDOWS: Final = {
    "second": 1,
    "minute": 60,
    "hour": 3_600,
    "day": 86_400,
    "month": 30 * 86_400,
    "year": 365 * 86_400,
}
UNITS: Final = get_args(RateUnit)


class Rate(NamedTuple):
    """One rate.

    Attributes:
        limit: How many of its units a key may use in a window.
        unit: What is counted: requests or, of raw inputs, the inputs, the tokens of texts (one for
            each four characters), or the pixels of images.
        window: Seconds.
    """

    limit: int
    unit: RateUnit
    window: int


def parse_rates(text: str) -> tuple[Rate, ...]:
    """Rates such as `100/minute;5000/day;64 items/second`, the shortest window first.

    Raises:
        InvalidInputError: If the text has another form.
    """
    rates = []
    for part in text.split(";"):
        match = RATE.fullmatch(part)
        limit = int(match[1]) if match else 0
        if match is None or limit < 1 or (match[3] and not int(match[3])):
            raise InvalidInputError(
                "expected rates such as 100/minute;5000/day;64 items/second, of "
                f"{', '.join(UNITS)}, got {text[:80]!r}"
            )
        window = int(match[3] or 1) * WINDOWS[match[4]]
        rates.append(Rate(limit, cast(RateUnit, match[2] or "requests"), window))
    return tuple(sorted(rates, key=lambda rate: rate.window))
