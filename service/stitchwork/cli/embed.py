"""`stitchwork embed`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from stitchwork.cli.client_options import (
    ClientCommand,
    bridge_option,
    input_options,
    input_type_option,
    parse_id,
    restarts_option,
    truncate_option,
)
from stitchwork.cli.engine_options import EngineOptions, engine_options
from stitchwork.cli.input_errors import input_errors
from stitchwork.cli.output import Output
from stitchwork.cli.resuming import read_partial, resumable, resume_option
from stitchwork.cli.table_files import TextSource

if TYPE_CHECKING:
    # Takes longer to import than the command line takes to refuse a wrong option.
    from stitchwork.client import Stitchwork

SERVICE_OPTIONS: Final = ("target", "bridge", "restarts", "resume")
BULK_OPTIONS: Final = ("address", "checkpoint", "block_rows", "shard", "actor_cpus")


@click.command(cls=ClientCommand)
@click.argument("encoder", metavar="SPACE", type=parse_id)
@click.argument("out", metavar="OUT")
@input_options("The inputs")
@click.option("--target", metavar="SPACE", type=parse_id, help="Translate into this space.")
@input_type_option
@truncate_option
@bridge_option
@restarts_option
@resume_option
@engine_options(
    ("service", "local", "ray"),
    "What embeds: the workers of the service; or, into a store with the other columns of the "
    "inputs, this process, or Ray on one machine or many.",
    "2048 texts, 256 images",
)
@click.option(
    "--actor-cpus",
    type=click.IntRange(1),
    default=1,
    metavar="COUNT",
    help="With --engine ray: processors of each copy of the model, beside a GPU of a cluster that "
    "has any [default: 1].",
)
@click.pass_context
def embed(
    context: click.Context,
    client: "Stitchwork",
    output: Output,
    encoder: str,
    out: str,
    texts: TextSource,
    images: tuple[str, ...],
    target: str | None,
    input_type: str | None,
    truncate: bool | None,
    bridge: str | None,
    resume: bool,
    options: EngineOptions,
    actor_cpus: int,
) -> None:
    """Embed texts or images into a file, by a SPACE that has an encoder.

    The file is an .npy, .npz, .safetensors or .parquet file, as its name says. The default inputs
    are texts on the standard input.

    With --engine local or ray the encoder runs outside of the service, which is asked for the space
    and for the rows of a few inputs, to compare them. OUT is a store that `stitchwork migrate`
    writes. --texts is a file or folder of Parquet, or a file of Lance or JSON Lines, --images a
    folder of image files or a store with a column of them. Rows that cannot be embedded are listed
    in a file, and the same command goes on where it was interrupted.
    """
    if options.engine != "service":
        _check_options(context, options.engine, SERVICE_OPTIONS)
        from stitchwork.cli.bulk_embedding import BulkInputs, embed_in_bulk

        inputs = BulkInputs(texts, images, input_type, truncate)
        embed_in_bulk(client, output, encoder, out, inputs, options, actor_cpus)
        return
    _check_options(context, options.engine, BULK_OPTIONS)
    path = Path(out)
    from stitchwork.cli.files import read_inputs

    items = read_inputs(texts, images, default="-") or []
    with input_errors(items, texts), resumable(path):
        rows: Any = client.embed(
            encoder,
            items,
            target,
            bridge,
            input_type=input_type,
            truncate=truncate,
            out=path,
            progress=output.has_progress,
            resume=read_partial(path, resume=resume),
        )
    output.record({"output": str(path), "rows": len(items), "width": rows.width})


def _check_options(context: click.Context, engine: str, names: Sequence[str]) -> None:
    """Refuse options that an engine does not have.

    Raises:
        UsageError: If one of these names is on the command line.
    """
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} is none of --engine {engine}")
