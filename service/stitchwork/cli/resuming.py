"""What commands do with the results that have arrived when a large call fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from stitchwork.errors import InvalidInputError, StitchworkError

if TYPE_CHECKING:
    from stitchwork.client import PartialResult

MAX_RUNS: Final = 5
"""Runs of missing inputs that a message names."""

resume_option = click.option(
    "--resume",
    is_flag=True,
    help="Go on with an .npy or .safetensors OUT where the same command ended before.",
)


def read_partial(path: Path, *, resume: bool) -> "PartialResult | None":
    """The state of an incomplete file; None to begin anew.

    Raises:
        InvalidInputError: If it is to be resumed and there is none.
    """
    if not resume:
        return None
    from stitchwork.client import PartialResult

    return PartialResult.read(path)


@contextmanager
def resumable(path: Path) -> Iterator[None]:
    """A context that says, after the cause of an error, how to go on with a file of rows."""
    from stitchwork.client.partial_results import part_path, state_path

    arrived = f"the rows that have arrived are in {part_path(path)}"
    advice = f"{arrived}; the same command with --resume computes the others"
    try:
        yield
    except InvalidInputError as error:
        if state_path(path).exists():
            # The same command would be refused again.
            advice = f"{arrived}; once that input is corrected, --resume computes the others"
            error.add_note(advice if error.pointer else arrived)
        raise
    except StitchworkError as error:
        if state_path(path).exists():
            error.add_note(advice)
        raise
    except KeyboardInterrupt:
        if state_path(path).exists():
            click.echo(f"stitchwork: {advice}", err=True)
        raise


@contextmanager
def partial_predictions(
    show: Callable[[list[dict[str, Any]], list[int]], None],
) -> Iterator[None]:
    """A context that shows the predictions that have arrived before an error.

    Args:
        show: Called with predictions and the indices of their inputs.
    """
    try:
        yield
    except StitchworkError as error:
        partial: PartialResult | None = error.partial
        if partial is not None:
            indices, predictions = list[int](), list[dict[str, Any]]()
            for start in sorted(partial.predictions):
                predictions += partial.predictions[start]
                indices += range(start, start + len(partial.predictions[start]))
            show(predictions, indices)
            error.add_note(_missing_text(partial))
        raise


def _missing_text(partial: "PartialResult") -> str:
    runs = [f"{start + 1:,} to {stop:,}" for start, stop in partial.missing]
    rest = " and others" if len(runs) > MAX_RUNS else ""
    return (
        f"{partial.count:,} of {partial.total:,} inputs are classified; missing are the inputs "
        f"{', '.join(runs[:MAX_RUNS])}{rest}"
    )
