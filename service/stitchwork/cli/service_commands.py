"""The commands that speak to a service: what they are called and what they take.

Nothing heavy is imported before a command runs, so that the command line answers at once.
"""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stitchwork.errors import (
    DeadlineExceededError,
    QueueFullError,
    StitchworkError,
    UnavailableError,
)

if TYPE_CHECKING:
    # `add_subparsers` returns a class that has no public name.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

REFUSED: Final = 1
NOT_NOW: Final = 3
"""Exit code where the same command may succeed later."""
INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it."""
EPILOG: Final = "Exits with 0, with 1 if refused, 2 for a wrong command, 3 if it may work later."


def add(commands: "Commands") -> None:
    """Add these commands to the program's."""
    for name, (flags, told) in COMMANDS.items():
        flags(commands.add_parser(name, help=told, description=told, epilog=EPILOG))


def run(options: argparse.Namespace) -> int:
    """Run one of them.

    Returns:
        The exit code: 0, or 1 if it was refused, or 3 if the service cannot be reached, is busy
        or took too long.
    """
    module, _, name = options.does.partition(":")
    try:
        from stitchwork.client import Stitchwork

        call: Callable[[Stitchwork, argparse.Namespace], None]
        call = getattr(import_module(f"stitchwork.cli.{module}"), name)
        with Stitchwork(options.url, options.timeout, key=options.key) as client:
            call(client, options)
    except (UnavailableError, QueueFullError, DeadlineExceededError) as error:
        return _complain(error, NOT_NOW)
    except (StitchworkError, OSError, ValueError) as error:
        return _complain(error, REFUSED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _complain(error: Exception, code: int) -> int:
    pointer = getattr(error, "pointer", None)
    place = f" (at {pointer})" if pointer else ""
    print(f"stitchwork: {error}{place}", file=sys.stderr)  # noqa: T201
    return code


def _leaf(command: argparse.ArgumentParser, does: str) -> Callable[..., Any]:
    """What all have in common; `does` names the module and function that run it."""
    flag = command.add_argument
    flag("--url", help="Where the service listens (STITCHWORK_URL, or this machine).")
    flag("--key", help="API key; better in STITCHWORK_KEY, where others do not see it.")
    flag("--timeout", type=float, default=60.0, metavar="S", help="Seconds for a request (60).")
    flag("--json", action="store_true", help="Print JSON.")
    command.set_defaults(does=does)
    return flag


def _records(kind: str, one: str, put_flags: Callable[..., None]) -> Callable[..., None]:
    def flags(command: argparse.ArgumentParser) -> None:
        actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
        told = f"List every {one}."
        _leaf(actions.add_parser("list", help=told, description=told), "resources:listing")
        told = f"Show one {one}."
        flag = _leaf(actions.add_parser("show", help=told, description=told), "resources:show_one")
        flag("id", metavar="ID")
        told = f"Register one {one}."
        put = actions.add_parser("put", help=told, description=told)
        flag = _leaf(put, f"resources:put_{one.replace(' ', '_')}")
        flag("id", metavar="ID")
        put_flags(flag)
        told = f"Remove {one}s."
        flag = _leaf(actions.add_parser("delete", help=told, description=told), "resources:delete")
        flag("ids", nargs="+", metavar="ID")
        command.set_defaults(kind=kind)

    return flags


def _input_flags(flag: Callable[..., Any], what: str) -> None:
    flag("--texts", metavar="FILE", help=f"{what}: a text on each line; - is the standard input.")
    flag(
        "--images",
        nargs="+",
        type=Path,
        metavar="PATH",
        help=f"{what}: image files, or folders of them in the order of their names.",
    )


def _anchor_set_flags(flag: Callable[..., Any]) -> None:
    _input_flags(flag, "The anchors")
    flag("--ids", type=Path, metavar="FILE", help="Names of the anchors, one on each line.")
    flag("--size", type=int, metavar="K", help="Only how many there are.")


def _space_flags(flag: Callable[..., Any]) -> None:
    flag("--set", required=True, dest="anchor_set", metavar="SET", help="Its anchor set.")
    flag("--anchors", type=Path, metavar="FILE", help=".npy of (k, d) anchors.")
    _input_flags(flag, "Declare the set by these first")
    flag("--ids", type=Path, metavar="FILE", help="Names of the rows, one on each line.")
    flag("--text-model", metavar="MODEL", help="Have a transformers model embed the set.")
    flag("--image-model", metavar="MODEL", help="Have a timm model embed the set.")
    flag("--weights", metavar="FILE", help="The timm model's weights, where the worker reads them.")
    flag(
        "--input-size", type=int, metavar="N", help="Side of its images in pixels, if not its own."
    )
    flag("--encoder", metavar="JSON", help="All of an encoder's fields.")
    flag("--no-wait", action="store_true", help="Do not wait until the set is embedded.")


def _head_flags(flag: Callable[..., Any]) -> None:
    flag("--space", required=True, help="The space it lives in.")
    flag(
        "--weights",
        type=Path,
        metavar="FILE",
        help=".safetensors of weight (c, d) and bias (c,), or layers.",
    )
    flag("--activation", help="Between the layers (relu).")
    flag("--embeddings", type=Path, metavar="FILE", help=".npy to fit a linear head on.")
    _input_flags(flag, "Fit a linear head on these")
    flag("--labels", type=Path, metavar="FILE", help="One on each line: of classes, or of rows.")
    flag("--classifier", action="store_true", help="Take that of the space's own model.")
    flag("--no-wait", action="store_true", help="Do not wait until it is fitted.")


def _translate_flags(command: argparse.ArgumentParser) -> None:
    flag = _leaf(command, "inference:translate")
    flag("input", type=Path, metavar="IN", help=".npy of (n, d) embeddings of the source.")
    flag("output", type=Path, metavar="OUT", help=".npy to write.")
    flag("--source", required=True, help="The space that they live in.")
    flag("--target", required=True, help="The space to go to.")
    flag("--bridge", help="Which way through the anchors.")


def _classify_flags(command: argparse.ArgumentParser) -> None:
    flag = _leaf(command, "inference:classify")
    flag("head", metavar="HEAD")
    flag("input", type=Path, metavar="IN", help=".npy of (n, d) embeddings.")
    flag("--space", required=True, help="The space that they live in.")
    flag("--bridge", help="Which way through the anchors.")
    flag("--top", type=int, default=1, metavar="N", help="Classes shown for each (1).")


def _embed_flags(command: argparse.ArgumentParser) -> None:
    flag = _leaf(command, "inference:embed")
    flag("encoder", metavar="SPACE", help="A space that has an encoder.")
    flag("output", type=Path, metavar="OUT", help=".npy to write.")
    _input_flags(flag, "The inputs (texts from the standard input)")
    flag("--target", help="Translate into this space.")
    flag("--bridge", help="Which way through the anchors.")


def _stitch_flags(command: argparse.ArgumentParser) -> None:
    flag = _leaf(command, "inference:stitch")
    flag("encoder", metavar="SPACE", help="A space that has an encoder.")
    flag("head", metavar="HEAD")
    _input_flags(flag, "The inputs (texts from the standard input)")
    flag("--bridge", help="Which way through the anchors.")
    flag("--top", type=int, default=1, metavar="N", help="Classes shown for each (1).")


def _compatibility_flags(command: argparse.ArgumentParser) -> None:
    flag = _leaf(command, "inference:compatibility")
    flag("anchor_set", metavar="SET")
    flag("--spaces", nargs="+", metavar="ID", help="Only these.")
    flag("--bridge", help="Which way through the anchors.")


def _export_flags(command: argparse.ArgumentParser) -> None:
    flag = _leaf(command, "inference:export")
    flag("source", metavar="SOURCE")
    flag("target", metavar="TARGET")
    flag("-o", "--out", type=Path, metavar="FILE", help="(SOURCE-to-TARGET with the ending)")
    flag("--format", choices=("safetensors", "onnx"), help="(by the file's ending)")
    flag("--head", help="Append a head of the target space; ONNX only.")
    flag("--bridge", help="Which way through the anchors.")


Flags = Callable[[argparse.ArgumentParser], None]
COMMANDS: dict[str, tuple[Flags, str]] = {
    "anchors": (
        _records("anchor-sets", "anchor set", _anchor_set_flags),
        "List, show, declare or remove anchor sets.",
    ),
    "spaces": (_records("spaces", "space", _space_flags), "List, show, register or remove spaces."),
    "heads": (_records("heads", "head", _head_flags), "List, show, register or remove heads."),
    "translate": (_translate_flags, "Translate an .npy file of embeddings, of any size."),
    "classify": (_classify_flags, "Classify an .npy file of embeddings."),
    "embed": (_embed_flags, "Embed texts or images into an .npy file."),
    "stitch": (_stitch_flags, "Classify texts or images, by one encoder and another's head."),
    "compatibility": (_compatibility_flags, "Compare the spaces of an anchor set."),
    "export": (_export_flags, "Save a translation as a file that needs no service."),
}
