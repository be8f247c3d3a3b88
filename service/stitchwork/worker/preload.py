"""Loads the models that a worker is to have before it takes jobs."""

import logging
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

from stitchwork.errors import StitchworkError
from stitchwork.registry.registry import Registry
from stitchwork.resources import EncoderSpec, Space, encoder_key
from stitchwork.worker.encoder_loading import EncoderLoading

log = logging.getLogger(__name__)

PAGE: Final = 100
"""Spaces that are read at once."""


def preload(
    registry: Registry,
    patterns: Sequence[str],
    takes: Callable[[EncoderSpec], bool],
    load: EncoderLoading,
) -> None:
    """Load the encoders of the registered spaces whose id or model matches a pattern.

    One that cannot be loaded is logged, and does not keep the worker from starting.

    Args:
        registry: Lists the spaces.
        patterns: Patterns of ids of spaces and of models.
        takes: Whether the worker takes jobs of an encoder.
        load: Loads an encoder.

    Raises:
        RegistryUnavailableError: If the registry does not answer.
    """
    unused, loaded = set(patterns), set[str]()
    for space in _spaces(registry) if patterns else ():
        encoder = space.encoder
        if encoder is None or not takes(encoder):
            continue
        matches = {p for p in patterns if _matches(p, space.id, encoder.model)}
        unused -= matches
        key = encoder_key(encoder)
        if not matches or key in loaded:
            continue
        loaded.add(key)
        try:
            load(encoder)
        except StitchworkError as error:
            extra = {"space": space.id, "model": encoder.model, "reason": error.message}
            log.error("model not preloaded", extra=extra)
    for pattern in sorted(unused):
        reason = "no registered space that this worker serves has this id or model"
        log.warning("nothing to preload", extra={"pattern": pattern, "reason": reason})


def _matches(pattern: str, *names: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _spaces(registry: Registry) -> Iterator[Space]:
    """The ready spaces."""
    cursor = None
    while True:
        page = registry.spaces.page(PAGE, cursor)
        yield from (entry.record for entry in page.entries if entry.record)
        cursor = page.cursor
        if cursor is None:
            return
