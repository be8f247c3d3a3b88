"""The `stitchwork` command."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stitchwork import __version__
from stitchwork.cli import service_commands
from stitchwork.errors import AuthenticationError, StitchworkError

if TYPE_CHECKING:
    # Takes longer to import than a command that needs no settings takes to run.
    from stitchwork.redis.client import RedisClient
    from stitchwork.settings import Settings

    Run = Callable[[Settings, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line, without the program's name; None takes the process's own.

    Returns:
        The exit code: 0 for an orderly end, 1 for a failure, 2 for a wrong setting.
    """
    parser = argparse.ArgumentParser(
        prog="stitchwork",
        description="Any encoder feeds any classifier head, zero-shot.",
    )
    parser.add_argument("--version", action="version", version=f"stitchwork {__version__}")
    names = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    service_commands.add(names)
    given = sys.argv[1:] if arguments is None else list(arguments)
    asked = next((word for word in given if not word.startswith("-")), None)
    for name, (run, told) in COMMANDS.items():
        command = names.add_parser(name, help=told, description=told, allow_abbrev=False)
        command.set_defaults(run=run)
        if name == asked:
            return _run(parser, command, name, given)
    return service_commands.run(parser.parse_args(given))


def _run(
    parser: argparse.ArgumentParser,
    command: argparse.ArgumentParser,
    name: str,
    given: Sequence[str],
) -> int:
    """Run a command that reads settings: every one of them is a flag of it, too."""
    from pydantic import ValidationError
    from pydantic_settings import CliSettingsSource

    from stitchwork.settings import Settings
    from stitchwork.telemetry import logs

    source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        Settings, root_parser=command, cli_kebab_case=True, cli_use_class_docs_for_groups=False
    )
    if name == "api":
        command.add_argument("--fd", type=int, help="Listening socket to take over.")
    if name in FLAGS:
        FLAGS[name](command)
    options = parser.parse_args(given)
    try:
        settings = Settings(_cli_settings_source=source(parsed_args=options))
        logs.configure(settings.log_level)
        code: int = options.run(settings, options)
    except ValidationError as error:
        for fault in error.errors():
            place = ".".join(str(part) for part in fault["loc"]) or "settings"
            print(f"stitchwork: {place}: {fault['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(name, "serve")
        needs = f"{name} needs {error.name}, which stitchwork[{extra}] installs"
        print(f"stitchwork: {needs}", file=sys.stderr)  # noqa: T201
        return 1
    except (StitchworkError, ValueError) as error:
        print(f"stitchwork: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return code


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    from stitchwork.supervisor import Plan, serve

    return serve(Plan.of(settings))


def _api(settings: Settings, options: argparse.Namespace) -> int:
    from stitchwork.api.middleware.auth import check_keys
    from stitchwork.api.server import serve_app
    from stitchwork.bootstrap.api import api_parts
    from stitchwork.bootstrap.shared import limit_blas

    limit_blas(settings)
    parts = api_parts(settings)
    try:
        check_keys(parts.api_keys, settings.host)
    except AuthenticationError as error:
        print(f"stitchwork: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return serve_app(
        parts,
        host=settings.host,
        port=settings.port,
        fd=options.fd,
        drain_seconds=settings.drain_seconds,
        timeout=settings.request_timeout_seconds,
    )


def _worker(settings: Settings, options: argparse.Namespace) -> int:
    from stitchwork.bootstrap.worker import worker

    running = worker(settings)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: running.stop())
    running.run()
    return 0


def _servers(settings: Settings) -> tuple[RedisClient, RedisClient]:
    """The registry server and the queue server: those named, or those of a `serve` beside us."""
    from stitchwork.bootstrap.shared import servers

    if settings.redis_url is None:
        from stitchwork.supervisor.embedded_servers import embedded

        settings = settings.model_copy(update=embedded(settings.data_dir))
    return servers(settings)


def _status(settings: Settings, options: argparse.Namespace) -> int:
    from stitchwork.cli.status import status

    _, queue = _servers(settings)
    return status(queue, settings.worker_ttl_seconds, here=options.here, as_json=options.json)


def _status_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="Print JSON.")
    command.add_argument(
        "--here", action="store_true", help="Only ask for a live worker of this host."
    )


def _dead(settings: Settings, options: argparse.Namespace) -> int:
    from stitchwork.bootstrap.shared import registry_on
    from stitchwork.cli import status

    registry, queue = _servers(settings)
    if options.action != "list" and options.letter is None:
        raise ValueError(f"dead {options.action} needs the id of a letter; dead list shows them")
    match options.action:
        case "list":
            return status.dead_list(queue, as_json=options.json)
        case "show":
            return status.dead_show(queue, options.letter, inputs=options.inputs)
        case "requeue":
            known = registry_on(registry, settings)
            return status.dead_requeue(
                queue, known, options.letter, settings.request_timeout_seconds
            )
    return status.dead_drop(queue, options.letter)


def _dead_flags(command: argparse.ArgumentParser) -> None:
    actions = ("list", "show", "requeue", "drop")
    command.add_argument("action", choices=actions, help="What to do.")
    command.add_argument("letter", nargs="?", help="Id of a letter, from `dead list`.")
    command.add_argument("--json", action="store_true", help="Print the list as JSON.")
    command.add_argument(
        "--inputs", action="store_true", help="Show how the inputs begin, which are users' own."
    )


def _keys(settings: Settings, options: argparse.Namespace) -> int:
    from stitchwork.cli import api_keys

    if options.action != "list" and options.name is None:
        raise ValueError(f"keys {options.action} needs a name")
    if options.action == "declare":
        return api_keys.declare(options.name, options.scope, options.days)
    from stitchwork.bootstrap.shared import registry_on

    keys = registry_on(_servers(settings)[0], settings).keys
    match options.action:
        case "add":
            return api_keys.add(keys, options.name, options.scope, options.days, options.limit)
        case "remove":
            return api_keys.remove(keys, options.name, last=options.last)
    return api_keys.show(keys, as_json=options.json)


def _keys_flags(command: argparse.ArgumentParser) -> None:
    flag = command.add_argument
    actions = ("add", "list", "remove", "declare")
    flag(
        "action", choices=actions, help="declare prints a line for a key_file, and stores nothing."
    )
    flag("name", nargs="?", help="Who holds the key; it stands in the log beside what they do.")
    flag(
        "--scope",
        action="append",
        default=[],
        choices=("read", "infer", "admin"),
        help="What it opens; may be given again.",
    )
    flag("--days", type=float, metavar="N", help="Days after which it is of no use.")
    flag("--limit", metavar="RATE", help="Its own rates, such as `100/minute;5000/day`.")
    flag("--last", action="store_true", help="Remove even the last key.")
    flag("--json", action="store_true", help="Print the list as JSON.")


def _settings(settings: Settings, options: argparse.Namespace) -> int:
    print(json.dumps(settings.redacted(), indent=2))  # noqa: T201
    return 0


def _demo(settings: Settings, options: argparse.Namespace) -> int:
    from stitchwork.demo.demo import demo

    return demo(options.dataset, keep=options.keep, input_size=options.input_size)


def _demo_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dataset", choices=("digits", "fashion-mnist"), default="digits")
    command.add_argument("--keep", action="store_true", help="Leave the service up afterwards.")
    command.add_argument("--input-size", type=int, help="Side of the encoders' input in pixels.")


def _evaluate(settings: Settings, options: argparse.Namespace) -> int:
    from stitchwork.bootstrap.shared import limit_blas
    from stitchwork.evaluation import evaluate
    from stitchwork.evaluation.experiments.experiment_settings import Settings as Asked

    # One thread for a product, and two products at a time.
    limit_blas(settings.model_copy(update={"blas_threads": settings.blas_threads or 1}))
    logging.getLogger().setLevel(logging.WARNING)
    asked = Asked(seed=options.seed, draws=options.draws, counts=tuple(options.anchors))
    return evaluate.evaluate(
        evaluate.Ask(
            data=tuple(options.data) or evaluate.DEFAULT_DATA,
            only=tuple(options.only),
            out=options.out,
            url=options.url,
            encoders=tuple(options.encoders),
            most=options.most,
            settings=asked,
            peers=tuple(options.peers),
        )
    )


def _evaluate_flags(command: argparse.ArgumentParser) -> None:
    flag = command.add_argument
    flag(
        "data",
        nargs="*",
        metavar="DATA",
        help="digits, fashion-mnist, or a path: a folder of images by class, of train and test "
        "texts or of the emoji packages, a CSV or JSONL of texts, two parallel texts, an .npz of "
        "embeddings (digits).",
    )
    flag("--only", nargs="+", default=[], metavar="NAME", help="Experiments; all if none.")
    flag("--out", type=Path, default=Path("evaluation"), help="Folder of results (evaluation).")
    flag("--url", help="A running service; one is started if none is named.")
    flag("--encoders", nargs="+", default=[], metavar="NAME", help="Those that suit the data.")
    flag("--peers", nargs="+", default=[], metavar="NAME", help="Other programs to compare with.")
    flag("--most", type=int, metavar="N", help="Rows of each part of a data set that stay.")
    flag("--anchors", nargs="+", type=int, default=[300, 1000, 1500, 3000], metavar="K")
    flag("--seed", type=int, default=0, metavar="N", help="Of draws, splits and nets (0).")
    flag("--draws", type=int, default=3, metavar="N", help="Draws of anchors (3).")


EXTRAS = {
    "worker": "worker",
    "demo": "demo",
    "evaluate": "demo",
}
FLAGS = {
    "demo": _demo_flags,
    "evaluate": _evaluate_flags,
    "status": _status_flags,
    "dead": _dead_flags,
    "keys": _keys_flags,
}
COMMANDS: dict[str, tuple[Run, str]] = {
    "serve": (_serve, "Run the whole service on this machine, servers included."),
    "api": (_api, "Run one API process."),
    "worker": (_worker, "Run one worker."),
    "demo": (_demo, "Stitch three real image encoders to each other's heads, and show the table."),
    "evaluate": (
        _evaluate,
        "Run the paper's experiments on data and encoders of choice; write a report with plots.",
    ),
    "status": (_status, "Show the live workers and what waits; exits with 1 if there is none."),
    "dead": (_dead, "List, show, requeue or drop jobs that were given up."),
    "keys": (_keys, "Add, list and remove keys to the API; a new one is shown once."),
    "settings": (_settings, "Show every setting as this process reads it, passwords left out."),
}
