"""`stitchwork anchor-sets|spaces|heads list|show|put|delete`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from stitchwork.cli.client_options import (
    ClientCommand,
    input_options,
    label_column_option,
    parse_id,
)
from stitchwork.cli.encoder_fields import encoder_fields
from stitchwork.cli.options import Group
from stitchwork.cli.output import Output
from stitchwork.cli.resource_columns import COLUMNS, Record
from stitchwork.cli.table_files import TextSource
from stitchwork.errors import InvalidInputError, UnknownResourceError

if TYPE_CHECKING:
    # Takes longer to import than the command line takes to refuse a wrong option.
    from stitchwork.client import Floats, Kind, Stitchwork

FILE: Final = click.Path(path_type=Path)


@click.group(cls=Group)
def anchor_sets() -> None:
    """List, show, declare or delete anchor sets."""


@click.group(cls=Group)
def spaces() -> None:
    """List, show, register or delete spaces."""


@click.group(cls=Group)
def heads() -> None:
    """List, show, register or delete heads."""


def _add_common(group: click.Group, kind: "Kind", noun: str) -> None:
    """Add `list`, `show` and `delete` to the commands of one kind of resource."""

    @group.command("list", cls=ClientCommand, help=f"List all {noun}s.")
    def list_all(client: "Stitchwork", output: Output) -> None:
        records = client.records(kind)
        columns = COLUMNS[kind]
        rows = [[read(record) for _, read in columns] for record in records]
        output.show(records, [name for name, _ in columns], rows)

    @group.command("show", cls=ClientCommand, help=f"Show one {noun}.")
    @click.argument("id_", metavar="ID", type=parse_id)
    def show(client: "Stitchwork", output: Output, id_: str) -> None:
        output.record(client.get(kind, id_))

    @group.command("delete", cls=ClientCommand, help=f"Delete {noun}s.")
    @click.argument("ids", metavar="ID...", type=parse_id, nargs=-1, required=True)
    def delete(client: "Stitchwork", output: Output, ids: tuple[str, ...]) -> None:
        for id_ in ids:
            client.delete(kind, id_)
        output.show({"deleted": list(ids)}, ("deleted",), [[id_] for id_ in ids])


_add_common(anchor_sets, "anchor-sets", "anchor set")
_add_common(spaces, "spaces", "space")
_add_common(heads, "heads", "head")


@anchor_sets.command("put", cls=ClientCommand)
@click.argument("id_", metavar="ID", type=parse_id)
@input_options("The anchors")
@click.option("--ids", type=FILE, metavar="FILE", help="Names of the anchors, one on each line.")
@click.option("--size", type=int, metavar="COUNT", help="Only the number of anchors.")
def put_anchor_set(
    client: "Stitchwork",
    output: Output,
    id_: str,
    texts: TextSource,
    images: tuple[str, ...],
    ids: Path | None,
    size: int | None,
) -> None:
    """Declare an anchor set by its inputs, its names or its size."""
    from stitchwork.cli.files import Files, read_inputs, read_lines

    inputs = read_inputs(texts, images)
    modality = "image" if isinstance(inputs, Files) else "vector" if inputs is None else "text"
    names = read_lines(ids) if ids else None
    output.record(client.put_anchor_set(id_, modality, items=inputs, ids=names, size=size))


@spaces.command("put", cls=ClientCommand)
@click.argument("id_", metavar="ID", type=parse_id)
@click.option("--anchor-set", required=True, metavar="SET", type=parse_id, help="Its anchor set.")
@click.option(
    "--anchors",
    type=FILE,
    metavar="FILE",
    help="File of (k, d) anchors; with a model, those that it gives.",
)
@input_options("Declare the anchor set by these first")
@click.option("--ids", type=FILE, metavar="FILE", help="Names of the rows, one on each line.")
@click.option("--text-model", metavar="MODEL", help="Embed the set with a transformers model.")
@click.option("--image-model", metavar="MODEL", help="Embed the set with a timm model.")
@click.option("--weights", metavar="FILE", help="The timm model's weights, as the worker reads it.")
@click.option(
    "--input-size",
    type=int,
    metavar="PIXELS",
    help="Side of the timm model's images [default: the model's own].",
)
@click.option(
    "--dtype",
    metavar="TYPE",
    help="Data type that the model is computed in: auto, float32, bfloat16 or float16 [default: "
    "float32].",
)
@click.option("--encoder", metavar="JSON", help="All fields of an encoder.")
@click.option(
    "--unit/--no-unit",
    default=None,
    help="Scale translations into it to unit length [default: if all anchors have length one].",
)
@click.option(
    "--no-wait",
    is_flag=True,
    help="Do not wait until the set is embedded and compared with other spaces' anchors.",
)
def put_space(
    client: "Stitchwork",
    output: Output,
    id_: str,
    anchor_set: str,
    anchors: Path | None,
    texts: TextSource,
    images: tuple[str, ...],
    ids: Path | None,
    unit: bool | None,
    no_wait: bool,
    **encoder_options: Any,
) -> None:
    """Register a space by its anchors or its encoder and, with inputs, its anchor set first."""
    from stitchwork.cli.files import Files, read_inputs, read_lines
    from stitchwork.client.chunks import all_rows

    rows = None if anchors is None else all_rows(anchors)
    encoder = encoder_fields(**encoder_options)
    if rows is None and encoder is None:
        raise InvalidInputError("expected --anchors, or a model to embed the anchor set with")
    names = read_lines(ids) if ids else None
    inputs = read_inputs(texts, images)
    if inputs is not None:
        modality = "image" if isinstance(inputs, Files) else "text"
        client.put_anchor_set(anchor_set, modality, items=inputs, ids=names)
    is_new = rows is not None and inputs is None and not _is_declared(client, anchor_set)
    record = client.put_space(
        id_,
        anchor_set,
        anchors=rows,
        encoder=encoder,
        ids=None if rows is None else names,
        unit=unit,
    )
    if is_new:
        note = f"stitchwork: anchor set {anchor_set} is new: no other space is on it yet"
        click.echo(note, err=True)
    _show_ready(client, output, "spaces", record, wait=not no_wait)


@heads.command("put", cls=ClientCommand)
@click.argument("id_", metavar="ID", type=parse_id)
@click.option(
    "--space", required=True, metavar="SPACE", type=parse_id, help="The space that it lives in."
)
@click.option(
    "--weights",
    type=FILE,
    metavar="FILE",
    help=".safetensors file of weight (c, d) and bias (c,), or of layers; one row for two labels.",
)
@click.option(
    "--activation",
    metavar="NAME",
    help="Activation between the layers, such as relu or gelu, or one between each two, such as "
    "relu,tanh; required for two layers or more.",
)
@click.option(
    "--embeddings", type=FILE, metavar="FILE", help="File of rows to fit a linear head on."
)
@input_options("Fit a linear head on these")
@click.option(
    "--labels",
    type=FILE,
    metavar="FILE",
    help="Labels of the classes, or of the rows or inputs: lines, or a .json list or an .npy array "
    "of strings, integers or booleans, or a .csv, .tsv or .jsonl file.",
)
@label_column_option
@click.option("--classifier", is_flag=True, help="Take the classifier of the space's own model.")
@click.option(
    "--problem-type",
    type=click.Choice(["single_label_classification", "multi_label_classification", "regression"]),
    help="What the scores mean [default: one label, or as the model's config says].",
)
@click.option(
    "--thresholds",
    metavar="NUMBER[,NUMBER...]",
    help="Scores from which labels are predicted, for all or for each [default: 0.5].",
)
@click.option("--temperature", type=float, help="Temperature of a calibration of the head.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is fitted.")
def put_head(
    client: "Stitchwork",
    output: Output,
    id_: str,
    space: str,
    weights: Path | None,
    activation: str | None,
    embeddings: Path | None,
    texts: TextSource,
    images: tuple[str, ...],
    labels: Path | None,
    label_column: str | None,
    classifier: bool,
    problem_type: str | None,
    thresholds: str | None,
    temperature: float | None,
    no_wait: bool,
) -> None:
    """Register a head by its weights, its space's own model, or the data to fit it on."""
    from stitchwork.cli.files import read_inputs, read_labels, read_tensors
    from stitchwork.client.chunks import all_rows

    inputs = read_inputs(texts, images)
    names = read_labels(labels, label_column) if labels else None
    sources = [weights, embeddings, inputs, classifier or None]
    if sum(source is not None for source in sources) != 1:
        raise InvalidInputError(
            "expected one of --weights, --embeddings, --texts, --images and --classifier"
        )
    fields: Record = {}
    arrays: dict[str, Floats] | None = None
    if classifier:
        fields = {"classifier": True} | ({} if names is None else {"labels": names})
    elif weights:
        arrays, fields = read_tensors(weights)
        if activation:
            each = activation.split(",")
            fields["activation"] = each if len(each) > 1 else activation
        fields |= {"labels": names} if names is not None else {}
    elif names is None:
        raise InvalidInputError("expected --labels, one for each row or input")
    elif inputs is not None:
        fields["fit"] = {"items": inputs, "labels": names}
    elif embeddings:
        arrays, fields = {"embeddings": all_rows(embeddings)}, {"labels": names}
    own = {
        "problem_type": problem_type,
        "thresholds": _thresholds(thresholds),
        "temperature": temperature,
    }
    fields |= {name: value for name, value in own.items() if value is not None}
    record = client.put_head(id_, space, arrays=arrays, **fields)
    _show_ready(client, output, "heads", record, wait=not no_wait)


def _thresholds(text: str | None) -> float | list[float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidInputError(
            f"--thresholds: expected numbers separated by commas, got {text[:80]!r}"
        ) from error
    return numbers if len(numbers) > 1 else numbers[0]


def _is_declared(client: "Stitchwork", anchor_set: str) -> bool:
    try:
        client.get("anchor-sets", anchor_set)
    except UnknownResourceError:
        return False
    return True


def _show_ready(
    client: "Stitchwork", output: Output, kind: "Kind", record: Record, *, wait: bool
) -> None:
    """Print a record, once it is ready, and a space checked, unless it need not be."""
    is_pending = record.get("pending", record)["status"] == "pending"
    is_unchecked = kind == "spaces" and record.get("checks", ()) is None
    if (is_pending or is_unchecked) and wait:
        outcome = {"outcome": record["outcome"]}
        record = client.wait(kind, record["id"], progress=output.has_progress) | outcome
    output.record(record)
