"""Progress of long calls: a bar, or whatever the caller does with two numbers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with what is done and what there is in all."""


@contextmanager
def shown(progress: Progress | bool, what: str, total: int) -> Iterator[Progress]:
    """What to call with the progress made.

    Args:
        progress: True draws a bar on the error stream, where that is a terminal; False is silent.
        what: What is under way.
        total: How much there is to do.
    """
    if progress is False:
        yield lambda done, total: None
    elif progress is not True:
        yield progress
    else:
        # Only who wants a bar pays for it.
        from rich.console import Console
        from rich.progress import Progress as Bars

        with Bars(console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(what, total=total)
            yield lambda done, total: bars.update(task, completed=done)
