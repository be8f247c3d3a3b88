"""`stitchwork translate|classify|stitch|compatibility|export`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from stitchwork.cli.client_options import (
    ClientCommand,
    bridge_option,
    input_options,
    input_type_option,
    min_confidence_option,
    parse_id,
    restarts_option,
    row_options,
    top_option,
    truncate_option,
)
from stitchwork.cli.input_errors import input_errors
from stitchwork.cli.options import WordsOption
from stitchwork.cli.output import Output, shorten
from stitchwork.cli.resuming import partial_predictions, read_partial, resumable, resume_option
from stitchwork.cli.table_files import TextSource

if TYPE_CHECKING:
    # Takes longer to import than the command line takes to refuse a wrong option.
    from stitchwork.client import FileFormat, Stitchwork

FILE: Final = click.Path(path_type=Path)
FORMATS: "Final[dict[str, FileFormat]]" = {".onnx": "onnx", ".safetensors": "safetensors"}


@click.command(cls=ClientCommand)
@click.argument("rows", metavar="IN", type=FILE)
@click.argument("path", metavar="OUT", type=FILE)
@click.option(
    "--source", required=True, metavar="SPACE", type=parse_id, help="The space of the embeddings."
)
@click.option(
    "--target", required=True, metavar="SPACE", type=parse_id, help="The space to translate into."
)
@row_options
@bridge_option
@restarts_option
@resume_option
def translate(
    client: "Stitchwork",
    output: Output,
    rows: Path,
    path: Path,
    source: str,
    target: str,
    scale: float | None,
    column: str | None,
    bridge: str | None,
    resume: bool,
) -> None:
    """Translate a file of (n, d) embeddings into another; neither is in memory as a whole.

    Both may be .npy, .npz, .safetensors or .parquet files, the second as its name says.
    """
    from stitchwork.client.row_files import open_rows
    from stitchwork.client.row_sinks import check_output

    check_output(path)
    embeddings = open_rows(rows, scale, column)
    count, width = embeddings.shape
    start = time.perf_counter()
    with resumable(path):
        result = client.translation(
            embeddings,
            source,
            target,
            bridge,
            out=path,
            progress=output.has_progress,
            resume=read_partial(path, resume=resume),
        )
    seconds = time.perf_counter() - start
    output.record(
        {
            "output": str(path),
            "rows": count,
            "width_in": width,
            "width_out": result.rows.width,
            "undefined": len(result.undefined),
            "uncovered": len(result.uncovered),
            "seconds": round(seconds, 3),
            "rows_per_second": round(count / seconds, 1),
        }
    )


@click.command(cls=ClientCommand)
@click.argument("head", metavar="HEAD", type=parse_id)
@click.argument("rows", metavar="IN", type=FILE)
@click.option(
    "--space", required=True, metavar="SPACE", type=parse_id, help="The space of the embeddings."
)
@row_options
@bridge_option
@restarts_option
@top_option
@min_confidence_option
def classify(
    client: "Stitchwork",
    output: Output,
    head: str,
    rows: Path,
    space: str,
    scale: float | None,
    column: str | None,
    bridge: str | None,
    top: int,
    min_confidence: float | None,
) -> None:
    """Classify an .npy, .npz, .safetensors or .parquet file of (n, d) embeddings."""
    from stitchwork.client.row_files import open_rows

    embeddings = open_rows(rows, scale, column)

    def show(predictions: list[dict[str, Any]], indices: Sequence[int]) -> None:
        _show_predictions(output, predictions, [str(i) for i in indices], top)

    with partial_predictions(show):
        predictions = client.classify(
            head,
            embeddings,
            space,
            bridge,
            top,
            min_confidence=min_confidence,
            progress=output.has_progress,
        )
    show(predictions, range(len(predictions)))


@click.command(cls=ClientCommand)
@click.argument("encoder", metavar="SPACE", type=parse_id)
@click.argument("head", metavar="HEAD", type=parse_id)
@input_options("The inputs")
@input_type_option
@truncate_option
@bridge_option
@restarts_option
@top_option
@min_confidence_option
def stitch(
    client: "Stitchwork",
    output: Output,
    encoder: str,
    head: str,
    texts: TextSource,
    images: tuple[str, ...],
    input_type: str | None,
    truncate: bool | None,
    bridge: str | None,
    top: int,
    min_confidence: float | None,
) -> None:
    """Classify texts or images, by the encoder of a SPACE and the HEAD of another.

    The default inputs are texts on the standard input.
    """
    from stitchwork.cli.files import input_names, read_inputs

    inputs = read_inputs(texts, images, default="-") or []
    names = input_names(inputs)

    def show(predictions: list[dict[str, Any]], indices: Sequence[int]) -> None:
        _show_predictions(output, predictions, [names[i] for i in indices], top)

    with input_errors(inputs, texts), partial_predictions(show):
        predictions = client.stitch(
            encoder,
            head,
            inputs,
            bridge,
            top,
            min_confidence=min_confidence,
            input_type=input_type,
            truncate=truncate,
            progress=output.has_progress,
        )
    show(predictions, range(len(predictions)))


@click.command(cls=ClientCommand)
@click.argument("anchor_set", metavar="SET", type=parse_id)
@click.option(
    "--spaces", cls=WordsOption, metavar="SPACE...", type=parse_id, help="Only these spaces."
)
@bridge_option
def compatibility(
    client: "Stitchwork",
    output: Output,
    anchor_set: str,
    spaces: tuple[str, ...],
    bridge: str | None,
) -> None:
    """Show how well the spaces of an anchor set translate into each other."""
    report = client.compatibility(anchor_set, bridge, spaces or None, progress=output.has_progress)
    columns = ("source", "target", "verdict", "similarity", "recall_at_1", "agreement", "reason")
    rows = [[pair[column] for column in columns] for pair in report["pairs"]]
    output.show(report, [column.replace("_", " ") for column in columns], rows)


@click.command(cls=ClientCommand)
@click.argument("source", metavar="SOURCE", type=parse_id)
@click.argument("target", metavar="TARGET", type=parse_id)
@click.option(
    "-o",
    "--out",
    type=FILE,
    metavar="FILE",
    help="File to write [default: SOURCE-to-TARGET.FORMAT].",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["safetensors", "onnx"]),
    help="Format of the file [default: by its name].",
)
@click.option(
    "--head", metavar="HEAD", type=parse_id, help="Append a head of the target space; ONNX only."
)
@bridge_option
def export(
    client: "Stitchwork",
    output: Output,
    source: str,
    target: str,
    out: Path | None,
    file_format: "FileFormat | None",
    head: str | None,
    bridge: str | None,
) -> None:
    """Save the translation from SOURCE to TARGET as a file that needs no service."""
    by_name: FileFormat | None = FORMATS.get(out.suffix) if out else None
    if file_format and by_name and file_format != by_name:
        raise click.UsageError(f"--format {file_format} contradicts the name {out}")
    file_format = file_format or by_name or "safetensors"
    if out:
        from stitchwork.cli.files import check_folder

        check_folder(out)
    data = client.export(source, target, bridge, head=head, format=file_format)
    path = out or Path(f"{source}-to-{target}.{file_format}")
    path.write_bytes(data)
    output.record({"output": str(path), "format": file_format, "bytes": len(data)})


def _show_predictions(
    output: Output, predictions: list[dict[str, Any]], names: list[str], top: int
) -> None:
    records = [
        {"input": name, **prediction} for name, prediction in zip(names, predictions, strict=True)
    ]
    rows = [[shorten(record["input"]), *_cells(record, top).values()] for record in records]
    columns = ["input", *(_cells(records[0], top) if records else ())]
    output.show(records, columns, rows)


def _cells(prediction: dict[str, Any], top: int) -> dict[str, Any]:
    """A prediction as cells of a table by their columns."""
    if "values" in prediction:
        values = {_label_text(part["label"]): part["value"] for part in prediction["values"]}
        return {"values": values}
    if "labels" in prediction:
        labels = "(abstained)" if prediction["abstained"] else _scores(prediction["labels"])
        cells = {"labels": labels, "confidence": prediction["confidence"]}
        return cells | ({"top": _scores(prediction["top"])} if top > 1 else {})
    label = "(abstained)" if prediction["abstained"] else _label_text(prediction["label"])
    cells = {"label": label}
    cells |= {name: prediction[name] for name in ("score", "confidence")}
    return cells | ({"others": _scores(prediction["top"][1:])} if top > 1 else {})


def _scores(entries: list[dict[str, Any]]) -> dict[str, float]:
    return {_label_text(entry["label"]): entry["score"] for entry in entries}


def _label_text(label: Any) -> str:
    """A label in a table; integers and booleans as their JSON."""
    return label if isinstance(label, str) else json.dumps(label)
