"""What has arrived of a large call that failed, and from where another call goes on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeAlias

import orjson

from stitchwork.client.flows import Request
from stitchwork.errors import InvalidInputError

Predictions: TypeAlias = list[dict[str, Any]]

FORMAT: Final = 1
DIGEST_BYTES: Final = 16


class CompletePart(NamedTuple):
    """A part whose result has arrived.

    Attributes:
        size: Number of its inputs.
        digest: Digest of its request.
    """

    size: int
    digest: str


@dataclass(slots=True)
class PartialResult:
    """What has arrived of a call that failed; as `resume` of the same call it goes on from there.

    Attributes:
        total: Number of inputs of the call.
        parts: The parts that are complete, by the indices of their first inputs.
        versions: The versions that they were computed with.
        rows: (n, d) float32 or what was passed as `out`; rows that are missing are zero or what
            they were. None of a call that returns predictions.
        width: Numbers in a row; 0 if there is none.
        predictions: The predictions of each complete part, by the index of its first input.
        undefined: Indices of inputs that have no direction.
        uncovered: Indices of inputs outside the region that the anchors cover.
    """

    total: int
    parts: dict[int, CompletePart] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    rows: Any = None
    width: int = 0
    predictions: dict[int, Predictions] = field(default_factory=dict)
    undefined: list[int] = field(default_factory=list)
    uncovered: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of inputs whose results have arrived."""
        return sum(part.size for part in self.parts.values())

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Start and stop of each run of inputs without a result."""
        runs, start = [], 0
        for first in sorted(self.parts):
            if first > start:
                runs.append((start, first))
            start = first + self.parts[first].size
        return [*runs, (start, self.total)] if start < self.total else runs

    def check(self, total: int, request: Callable[[int, int], Request]) -> None:
        """Check that a call has the inputs and options of what is complete.

        Args:
            total: Number of inputs of the call.
            request: Returns its request for the inputs from one index up to another.

        Raises:
            InvalidInputError: If they differ.
        """
        if total != self.total:
            raise InvalidInputError(f"resume: expected {self.total} inputs, got {total}")
        for start, part in sorted(self.parts.items()):
            if request_digest(request(start, start + part.size)) != part.digest:
                raise InvalidInputError(
                    f"resume: the inputs {start} to {start + part.size - 1}, or the options, are "
                    "not those of the call that failed"
                )

    def to_json(self) -> bytes:
        """All but the results themselves."""
        return orjson.dumps(
            {
                "format": FORMAT,
                "total": self.total,
                "width": self.width,
                "parts": [[start, *part] for start, part in self.parts.items()],
                "versions": self.versions,
                "undefined": self.undefined,
                "uncovered": self.uncovered,
            }
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """The state of a file of rows that a call did not complete.

        Args:
            path: The file that it was to write.

        Raises:
            InvalidInputError: If there is none.
        """
        state = state_path(path)
        try:
            fields = orjson.loads(state.read_bytes())
            if fields["format"] != FORMAT:
                raise ValueError("another release wrote it")
            return cls(
                fields["total"],
                {start: CompletePart(size, digest) for start, size, digest in fields["parts"]},
                fields["versions"],
                width=fields["width"],
                undefined=fields["undefined"],
                uncovered=fields["uncovered"],
            )
        except FileNotFoundError as error:
            raise InvalidInputError(f"there is nothing to resume: no file {state}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"{state} cannot be resumed: {error}") from error


def part_path(path: Path) -> Path:
    """The name of a file of rows until it is complete."""
    return path.with_name(path.name + ".part")


def state_path(path: Path) -> Path:
    """The file that tells which rows of an incomplete file are complete."""
    return path.with_name(path.name + ".part.json")


def request_digest(request: Request) -> str:
    """A digest of what a request asks for."""
    query = orjson.dumps([request.path, sorted(request.query.items())])
    digest = blake2b(query, digest_size=DIGEST_BYTES)
    digest.update(request.content or b"")
    return digest.hexdigest()
