"""Progress of long calls: a bar, or a callback."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the work done and the work in total."""


@contextmanager
def progress_callback(progress: Progress | bool, label: str, total: int) -> Iterator[Progress]:
    """The function to call as the work advances.

    Args:
        progress: True draws a bar on standard error if that is a terminal; False is silent.
        label: Name of the work.
        total: Amount of the work.
    """
    if callable(progress):
        yield progress
    elif progress and sys.stderr.isatty():
        import click

        with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
            yield lambda done, total: bar.update(done - bar.pos)
    else:
        yield lambda done, total: None
