"""What the commands that call a running service have in common."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from stitchwork.cli.environment import check_client_environment
from stitchwork.cli.options import Command, WordsOption
from stitchwork.cli.output import Output

F = TypeVar("F", bound=Callable[..., Any])

TIMEOUT: Final = 60.0
EPILOG: Final = (
    "Exit codes: 0 success, 1 refused, 2 wrong command or option, 3 may succeed later (the service "
    "is unreachable, busy or too slow)."
)


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
                type=float,
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
        with Stitchwork(url, timeout, key=key) as client:
            ctx.params["client"] = client
            return super().invoke(ctx)


def input_options(subject: str) -> Callable[[F], F]:
    """The options `--texts` and `--images`.

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
            help=f"{subject}: a text on each line; - is the standard input.",
        )
        return texts(images(function))

    return decorate


bridge_option = click.option(
    "--bridge", metavar="TEXT", help="Bridge to use [default: the service's]."
)
top_option = click.option(
    "--top",
    type=int,
    default=1,
    metavar="COUNT",
    help="Number of classes to list for each input [default: 1].",
)
