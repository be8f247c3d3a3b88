"""`stitchwork choose-anchors`."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from stitchwork.cli.client_options import ClientCommand, parse_id, row_options
from stitchwork.cli.output import Output
from stitchwork.cli.table_files import TextSource
from stitchwork.errors import InvalidInputError

if TYPE_CHECKING:
    # Takes longer to import than the command line takes to refuse a wrong option.
    from stitchwork.client import Stitchwork

FILE: Final = click.Path(path_type=Path)


@click.command(cls=ClientCommand)
@click.argument("pool", metavar="POOL", type=FILE)
@click.option("--count", required=True, type=int, metavar="COUNT", help="Number of anchors.")
@click.option(
    "--space",
    metavar="SPACE",
    type=parse_id,
    help="A space of the same encoder: its anchors count as chosen.",
)
@click.option(
    "--texts",
    type=FILE,
    metavar="FILE",
    help="The pool's texts, one on each line, or the column text of a .csv, .tsv or .jsonl file: "
    "print these.",
)
@row_options
def choose_anchors(
    client: "Stitchwork",
    output: Output,
    pool: Path,
    count: int,
    space: str | None,
    texts: Path | None,
    scale: float | None,
    column: str | None,
) -> None:
    """Choose the rows of a POOL of (n, d) embeddings that represent it best as anchors.

    Prints their indices in order, or their texts. The pool is an .npy, .npz, .safetensors or
    .parquet file of embeddings by any one encoder; no labels are needed.
    """
    from stitchwork.cli.files import read_texts
    from stitchwork.client.row_files import open_rows

    embeddings = open_rows(pool, scale, column)
    size = embeddings.shape[0]
    lines = None if texts is None else read_texts(TextSource(str(texts)))
    if lines is not None and len(lines) != size:
        raise InvalidInputError(f"expected a text for each of {size} rows, got {len(lines)}")
    chosen = client.choose_anchors(embeddings, count, space)
    if output.as_json:
        output.show({"chosen": chosen})
        return
    for index in chosen:
        click.echo(index if lines is None else lines[index])
