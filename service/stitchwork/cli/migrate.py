"""`stitchwork migrate`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from stitchwork.cli.client_options import ClientCommand, bridge_option, move_options
from stitchwork.cli.engine_options import EngineOptions, engine_options, progress_bar
from stitchwork.cli.output import Output
from stitchwork.cli.text_options import text_options, text_reader
from stitchwork.errors import InvalidInputError

if TYPE_CHECKING:
    # Takes longer to import than the command line takes to refuse a wrong option.
    from stitchwork.client import Stitchwork
    from stitchwork.migration.file_shards import FileShard
    from stitchwork.migration.move_results import MoveResult

SIDES: Final = ("source", "target")


@click.command(cls=ClientCommand)
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@move_options("The space to translate into.")
@bridge_option
@click.option(
    "--uncovered",
    type=click.Choice(["keep", "reject"]),
    default="keep",
    show_default=True,
    help="Rows that the anchors do not cover: translate and count them, or reject them as those "
    "that cannot be translated.",
)
@click.option(
    "--re-embed",
    is_flag=True,
    help="Embed the texts of rejected rows with the model of --to, through the service, instead of "
    "leaving them out; with --text or --texts.",
)
@text_options
@engine_options(
    ("local", "ray"),
    "What moves the rows: this process, or Ray, on one machine or many.",
    "8192",
)
def migrate(
    client: "Stitchwork",
    output: Output,
    source: str,
    target: str,
    source_space: str,
    target_space: str,
    bridge: str | None,
    uncovered: str,
    re_embed: bool,
    text: str | None,
    texts: Path | None,
    options: EngineOptions,
) -> None:
    """Move a store of vectors: translate its rows into a new store, ids and payload included.

    SOURCE and TARGET are paths or URLs: rows.parquet, a folder/ of Parquet files, here or as
    s3://BUCKET/FOLDER/, rows.npy with rows.ids.txt, rows.jsonl, rows.lance,
    postgresql://HOST/DATABASE?table=NAME,
    qdrant:FOLDER-OR-URL?collection=NAME, chroma:FOLDER-OR-URL?collection=NAME,
    lancedb:FOLDER?table=NAME, milvus:FILE.db-OR-URL?collection=NAME, or redis://HOST?index=NAME.
    The service is asked for the map once; the rows are translated on
    this machine. The same command goes on where it was interrupted.
    """
    from stitchwork.migration.blocks import BLOCK_ROWS
    from stitchwork.migration.file_shards import FileShard, move_shard
    from stitchwork.migration.local_engine import StoreMove
    from stitchwork.migration.move_reporter import MoveReporter
    from stitchwork.migration.offline_map import OfflineMap
    from stitchwork.migration.re_embedding import TextEmbedder
    from stitchwork.migration.space_translation import SpaceTranslation
    from stitchwork.migration.stores import client_errors, open_store, state_folder

    options.check()
    if re_embed and options.engine != "local":
        raise click.UsageError("--re-embed needs --engine local")
    if re_embed != (text is not None or texts is not None):
        raise InvalidInputError("expected --re-embed with --text or --texts, or neither")
    reader = text_reader(text, texts, required=False)
    share = FileShard.parse(options.shard) if options.shard else None
    offline_map = OfflineMap.fetch(client, source_space, target_space, bridge)
    translation = SpaceTranslation(
        offline_map,
        "reject" if uncovered == "reject" else "keep",
        TextEmbedder(client, offline_map.versions, reader) if re_embed else None,
        reader,
    )
    folder, rows = options.checkpoint or state_folder(target), options.block_rows or BLOCK_ROWS
    reporter = MoveReporter(client, source, target, folder, engine=options.engine, shard=share)
    with reporter, progress_bar("migrate", visible=output.has_progress) as show:

        def progress(done: int, total: int) -> None:
            reporter.progress(done, total)
            show(done, total)

        if share is None:
            engine = options.open_engine("migrate")
            with (
                open_store(source) as old,
                open_store(target) as new,
                client_errors(old, new),
            ):
                move = StoreMove(old, new, translation, folder, rows, progress, engine)
                results = [move.run()]
        else:
            results = move_shard(
                source, target, translation, folder, share, block_rows=rows, progress=progress
            )
        reporter.add_results(results)
    warnings = [warning for result in results for warning in result.warnings]
    if reporter.warning is not None:
        warnings.append(reporter.warning)
    if share is None:
        _show_result(output, results[0], warnings)
    else:
        _show_shard(output, source, target, share, results, warnings)
    output.warn(warnings)


def _show_result(output: Output, result: "MoveResult", warnings: list[str]) -> None:
    fields = dataclasses.asdict(result) | {"rejects": str(result.rejects), "warnings": warnings}
    moved = result.rows - result.resumed_at
    fields |= {
        "seconds": round(result.seconds, 3),
        "rows_per_second": round(moved / result.seconds, 1),
    }
    _show(output, fields)


def _show_shard(
    output: Output,
    source: str,
    target: str,
    shard: "FileShard",
    results: "list[MoveResult]",
    warnings: list[str],
) -> None:
    counts = ("rows", "written", "rejected", "re_embedded", "uncovered", "mismatched", "resumed_at")
    sums = {name: sum(getattr(result, name) for result in results) for name in counts}
    seconds = sum(result.seconds for result in results)
    fields = {"source": source, "target": target, "shard": f"{shard.index}/{shard.count}"}
    _show(
        output,
        {
            **fields,
            "files": len(results),
            **sums,
            "rejects": [str(r.rejects) for r in results if r.rejected or r.re_embedded],
            "seconds": round(seconds, 3),
            "rows_per_second": round((sums["rows"] - sums["resumed_at"]) / max(seconds, 1e-9), 1),
            "versions": results[0].versions if results else {},
            "warnings": warnings,
        },
    )


def _show(output: Output, fields: dict[str, Any]) -> None:
    """Print the fields; of a table, the warnings are on standard error, and lines stay short."""
    if not output.as_json:
        versions = {name.replace("_", " "): text for name, text in fields.pop("versions").items()}
        del fields["warnings"]
        fields |= {f"{name} space" if name in SIDES else name: versions[name] for name in versions}
    output.record(fields)
