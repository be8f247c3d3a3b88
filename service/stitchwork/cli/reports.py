"""`stitchwork evaluate-head|anchor-report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from stitchwork.cli.client_options import (
    ClientCommand,
    bridge_option,
    input_options,
    input_type_option,
    label_column_option,
    parse_id,
    truncate_option,
)
from stitchwork.cli.input_errors import input_errors
from stitchwork.cli.output import Output
from stitchwork.cli.table_files import TextSource
from stitchwork.errors import InvalidInputError

if TYPE_CHECKING:
    # Takes longer to import than the command line takes to refuse a wrong option.
    from stitchwork.client import Stitchwork

FILE: Final = click.Path(path_type=Path)
SCORES: Final = ("absolute", "translated", "native")


@click.command(cls=ClientCommand)
@click.argument("encoder", metavar="SPACE", type=parse_id)
@click.argument("head", metavar="HEAD", type=parse_id)
@input_options("The sample")
@click.option("--embeddings", type=FILE, metavar="FILE", help="The sample: rows of SPACE.")
@click.option(
    "--native-embeddings",
    type=FILE,
    metavar="FILE",
    help="The same inputs as rows of the head's own space.",
)
@click.option(
    "--labels",
    type=FILE,
    required=True,
    metavar="FILE",
    help="What is true of each: lines, a .json list, an .npy array, or a .csv, .tsv or .jsonl "
    "file.",
)
@label_column_option
@click.option(
    "--calibrate", is_flag=True, help="Calibrate the confidence of predictions from now on."
)
@click.option(
    "--min-accuracy",
    type=float,
    metavar="SHARE",
    help="Show from which confidence on predictions have this accuracy.",
)
@input_type_option
@truncate_option
@bridge_option
def evaluate_head(
    client: "Stitchwork",
    output: Output,
    encoder: str,
    head: str,
    texts: TextSource,
    images: tuple[str, ...],
    embeddings: Path | None,
    native_embeddings: Path | None,
    labels: Path,
    label_column: str | None,
    calibrate: bool,
    min_accuracy: float | None,
    input_type: str | None,
    truncate: bool | None,
    bridge: str | None,
) -> None:
    """Judge a HEAD on a labelled sample of a SPACE: with the bridge, without, and natively."""
    from stitchwork.cli.files import Files, read_inputs, read_labels

    inputs = read_inputs(texts, images)
    if (inputs is None) == (embeddings is None):
        raise InvalidInputError("expected one of --texts, --images and --embeddings")
    with input_errors(inputs, texts):
        report = client.evaluate_head(
            encoder,
            head,
            read_labels(labels, label_column),
            items=list(inputs) if isinstance(inputs, Files) else inputs,
            embeddings=embeddings,
            native_embeddings=native_embeddings,
            bridge=bridge,
            input_type=input_type,
            truncate=truncate,
            calibrate=calibrate,
            min_accuracy=min_accuracy,
        )
    fields = {
        "verdict": report["verdict"],
        "reason": report["reason"],
        "samples": report["samples"],
        "chance": report["chance"],
        **{name: report[name] for name in SCORES},
        "confidence": report.get("confidence"),
        "calibration": report.get("calibration"),
        "threshold": report.get("threshold"),
        "warnings": "; ".join(report["warnings"]),
    }
    output.show(report, ("field", "value"), _present(fields).items())


@click.command(cls=ClientCommand)
@click.argument("space", metavar="SPACE", type=parse_id)
@click.option(
    "--target",
    metavar="SPACE",
    type=parse_id,
    help="Another space of the set: name the pairs of anchors that do not correspond.",
)
@bridge_option
def anchor_report(
    client: "Stitchwork", output: Output, space: str, target: str | None, bridge: str | None
) -> None:
    """Show which anchors of a SPACE are duplicates or wrong, and whether there are enough."""
    report = client.anchor_report(space, target, bridge)
    curve = report.get("learning_curve") or {}
    fields = {
        "anchors": report["anchors"],
        "equal": report["duplicates"]["exact"],
        "nearly equal": report["duplicates"]["near"],
        "could be removed": [entry["anchor"] for entry in report["drop"]],
        "enough": ("yes" if curve["enough"] else "no") if curve else None,
        "reason": curve.get("reason"),
        "misaligned": report.get("misaligned"),
    }
    output.show(report, ("field", "value"), _present(fields).items())


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", [])}
