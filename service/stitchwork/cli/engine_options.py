"""The options of commands that move or embed stores, and how their progress is shown."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click

from stitchwork.cli.extras import require

if TYPE_CHECKING:
    # Takes longer to import than the command line takes to refuse a wrong option.
    from stitchwork.migration.local_engine import Engine
    from stitchwork.migration.ray_session import ActorResources

F = TypeVar("F", bound=Callable[..., Any])


class EngineOptions(NamedTuple):
    """How the blocks of a store are written.

    Attributes:
        engine: `local` or `ray`, or another one of the command.
        address: Address of a Ray cluster.
        checkpoint: Folder of the state.
        block_rows: Rows of a block.
        shard: The share of the files of a folder, as INDEX/COUNT.
    """

    engine: str
    address: str | None
    checkpoint: Path | None
    block_rows: int | None
    shard: str | None

    def check(self) -> None:
        """Check that the options belong together.

        Raises:
            UsageError: If they do not.
        """
        if self.address and self.engine != "ray":
            raise click.UsageError("--address needs --engine ray")
        if self.shard and self.engine == "ray":
            raise click.UsageError(
                "--shard divides the files among commands, --engine ray by itself"
            )

    def open_engine(
        self, command: str, actors: "Callable[[], ActorResources] | None" = None
    ) -> "Engine":
        """The engine.

        Args:
            command: The command, in messages.
            actors: Returns what each actor takes of a cluster.
        """
        from stitchwork.migration.local_engine import LOCAL

        if self.engine == "local":
            return LOCAL
        require(f"{command} --engine ray", ("ray", "aiohttp", "pandas", "pyarrow"), "ray")
        from stitchwork.migration.ray_engine import RayEngine

        return RayEngine(self.address, actors() if actors else None)


def engine_options(engines: Sequence[str], subject: str, block_rows: str) -> Callable[[F], F]:
    """The options of engines, as one argument `options`.

    Args:
        engines: The engines; the first one is the default.
        subject: What the help of `--engine` says.
        block_rows: The default of `--block-rows`, in its help.
    """

    def decorate(function: F) -> F:
        options = (
            click.option(
                "--checkpoint",
                type=click.Path(path_type=Path, file_okay=False),
                metavar="FOLDER",
                help="Folder of the state and of the rows that are left out [default: "
                "TARGET.migration beside a file, KIND.NAME.DIGEST.migration here otherwise].",
            ),
            click.option(
                "--block-rows",
                type=click.IntRange(1),
                metavar="COUNT",
                help=f"Rows that are computed and written at a time [default: {block_rows}].",
            ),
            click.option(
                "--engine",
                type=click.Choice(list(engines)),
                default=engines[0],
                show_default=True,
                help=subject,
            ),
            click.option(
                "--address",
                metavar="ADDRESS",
                help="Address of a Ray cluster, auto for that of this machine [default: "
                "RAY_ADDRESS, else one is started here].",
            ),
            click.option(
                "--shard",
                metavar="INDEX/COUNT",
                help="Take a share of the files of the source, a folder, to files of the same "
                "names in the target: 0/8 is the first of eight. Each is a command of its own, "
                "under any scheduler.",
            ),
        )

        @wraps(function)
        def call(*args: Any, **arguments: Any) -> Any:
            values = {name: arguments.pop(name) for name in EngineOptions._fields}
            return function(*args, options=EngineOptions(**values), **arguments)

        command = cast(F, call)
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@contextmanager
def progress_bar(label: str, *, visible: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar with the rows, the rate and the time that is left."""
    if not visible:
        yield lambda done, total: None
        return
    start, first = time.perf_counter(), None

    def rate(done: int | None) -> str:
        seconds = time.perf_counter() - start
        return f"{((done or 0) - (first or 0)) / max(seconds, 1e-9):,.0f} rows/s"

    with click.progressbar(
        length=1, label=label, show_pos=True, item_show_func=rate, file=sys.stderr
    ) as bar:

        def show(done: int, total: int) -> None:
            nonlocal first
            first = done if first is None else first
            bar.length = total
            bar.update(done - bar.pos, done)

        yield show
