"""What the commands that call a running service have in common."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar, cast

import click

from stitchwork.cli.environment import check_client_environment
from stitchwork.cli.options import Command, WordsOption
from stitchwork.cli.output import Output
from stitchwork.cli.table_files import TextSource
from stitchwork.cli.tls_hints import add_tls_hint
from stitchwork.errors import AuthenticationError, InvalidInputError, UnavailableError

F = TypeVar("F", bound=Callable[..., Any])

TIMEOUT: Final = 60.0
MAX_TIMEOUT: Final = 86_400.0
EPILOG: Final = (
    "Exit codes: 0 success, 1 refused, 2 wrong command or option, 3 may succeed later (the service "
    "is unreachable, busy or too slow)."
)


def parse_timeout(text: str) -> float:
    """A finite number of seconds, more than 0.

    Raises:
        UsageError: If it is not one.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT:
        raise click.UsageError(
            f"--timeout: expected seconds, more than 0 and at most {MAX_TIMEOUT:g}, got {text}"
        )
    return seconds


def parse_id(text: str) -> str:
    """An id of an anchor set, a space or a head, by the service's own rule.

    Raises:
        BadParameter: If the service would refuse it.
    """
    # Imported here, since it takes longer than the rest of a command's help.
    from stitchwork.ids import check_id

    try:
        return check_id(text)
    except InvalidInputError as error:
        raise click.BadParameter(error.message) from error


class InvalidClientError(click.ClickException):
    """A URL, key or timeout that the client refuses."""

    exit_code = 2

    def __init__(self, error: InvalidInputError) -> None:
        super().__init__(f"stitchwork: {error.message}")


class ClientCommand(Command):
    """A command that is called with a client of the service and an `Output`."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **{"epilog": EPILOG, **attributes})
        self.params += [
            click.Option(
                ["--url"],
                metavar="URL",
                help="Address of the service [default: STITCHWORK_URL, else this machine].",
            ),
            click.Option(
                ["--key"],
                metavar="TEXT",
                help="API key; better in STITCHWORK_KEY, where other users do not see it.",
            ),
            click.Option(
                ["--timeout"],
                type=parse_timeout,
                default=TIMEOUT,
                metavar="SECONDS",
                help=f"Timeout of one request [default: {TIMEOUT:g}].",
            ),
            click.Option(["--json"], is_flag=True, help="Print JSON."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command with a client that is closed afterwards."""
        from stitchwork.client import Stitchwork

        check_client_environment()
        url, key, timeout = (ctx.params.pop(name) for name in ("url", "key", "timeout"))
        ctx.params["output"] = Output(as_json=ctx.params.pop("json"))
        restarts = ctx.params.pop("restarts", 0)
        try:
            client = Stitchwork(url, timeout, key=key, restarts=restarts)
        except InvalidInputError as error:
            raise InvalidClientError(error) from error
        with client:
            ctx.params["client"] = client
            try:
                return super().invoke(ctx)
            except AuthenticationError as error:
                raise AuthenticationError(
                    f"{error.message}: set STITCHWORK_KEY or --key"
                ) from error
            except UnavailableError as error:
                add_tls_hint(error, client.url)
                raise


def input_options(subject: str) -> Callable[[F], F]:
    """The options `--texts`, with `--column`, and `--images`.

    The command gets the first two as one argument `texts`, a `TextSource`.

    Args:
        subject: What the inputs are, as the beginning of the help.
    """

    def decorate(function: F) -> F:
        images = click.option(
            "--images",
            cls=WordsOption,
            metavar="PATH...",
            help=f"{subject}: image files, or folders of them in the order of their names.",
        )
        texts = click.option(
            "--texts",
            metavar="FILE",
            help=f"{subject}: a text on each line, or a .csv, .tsv or .jsonl file; - is the "
            "standard input.",
        )
        column = click.option(
            "--column", metavar="NAME", help="Column of the texts [default: text, or the only one]."
        )

        @wraps(function)
        def call(*args: Any, texts: str | None, column: str | None, **options: Any) -> Any:
            return function(*args, texts=TextSource(texts, column), **options)

        return texts(column(images(cast(F, call))))

    return decorate


def move_options(target: str) -> Callable[[F], F]:
    """The options `--from` and `--to` of a store, as the arguments `source_space`, `target_space`.

    Args:
        target: What the second one is, as its help.
    """

    def decorate(function: F) -> F:
        source_option = click.option(
            "--from",
            "source_space",
            required=True,
            metavar="SPACE",
            type=parse_id,
            help="The space of the vectors.",
        )
        target_option = click.option(
            "--to",
            "target_space",
            required=True,
            metavar="SPACE",
            type=parse_id,
            help=target,
        )
        return source_option(target_option(function))

    return decorate


bridge_option = click.option(
    "--bridge", metavar="TEXT", help="Bridge to use [default: the service's]."
)


def row_options(function: F) -> F:
    """The options of a file of embeddings."""
    scale = click.option(
        "--scale", type=float, metavar="NUMBER", help="What int8 embeddings are multiplied by."
    )
    column = click.option(
        "--column",
        metavar="NAME",
        help="Column of a Parquet file [default: its only one of vectors].",
    )
    return scale(column(function))


input_type_option = click.option(
    "--input-type",
    metavar="TEXT",
    help="Prompt of the encoder's model: its name, or query, document and the like [default: that "
    "of the anchors].",
)
truncate_option = click.option(
    "--truncate",
    is_flag=True,
    default=None,
    help="Cut texts that are too long [default: as the encoder is registered].",
)
min_confidence_option = click.option(
    "--min-confidence",
    type=float,
    metavar="SHARE",
    help="Confidence below which the head abstains [default: 0].",
)
top_option = click.option(
    "--top",
    type=int,
    default=1,
    metavar="COUNT",
    help="Number of classes to list for each input [default: 1].",
)
label_column_option = click.option(
    "--label-column",
    metavar="NAME",
    help="Column of the labels, of a .csv, .tsv or .jsonl file [default: label, or the only one].",
)
restarts_option = click.option(
    "--restarts",
    type=click.IntRange(min=0),
    default=0,
    metavar="COUNT",
    help="How often to begin again if a space or the head is replaced meanwhile [default: 0].",
)
