"""`stitchwork embed --engine local|ray`: embeds stores outside of the service."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from stitchwork.cli.engine_options import EngineOptions, progress_bar
from stitchwork.cli.extras import require
from stitchwork.cli.output import Output
from stitchwork.cli.settings_options import load
from stitchwork.cli.table_files import TextSource

if TYPE_CHECKING:
    # Takes longer to import than the command line takes to refuse a wrong option.
    from stitchwork.client import Stitchwork
    from stitchwork.migration.item_readers import ItemReader
    from stitchwork.migration.move_results import MoveResult
    from stitchwork.migration.ray_session import ActorResources
    from stitchwork.migration.store import VectorStore
    from stitchwork.resources import Modality

TEXT_BLOCK_ROWS: Final = 2048
IMAGE_BLOCK_ROWS: Final = 256
"""An image may have megabytes."""


class BulkInputs(NamedTuple):
    """What is embedded.

    Attributes:
        texts: A store of texts, and the column of these.
        images: A folder of images, or a store of them.
        input_type: Selects a prompt of the model.
        truncate: Whether texts that are too long are truncated.
    """

    texts: TextSource
    images: tuple[str, ...]
    input_type: str | None
    truncate: bool | None

    @property
    def modality(self) -> "Modality":
        """What the inputs are."""
        return "image" if self.images else "text"

    @property
    def url(self) -> str:
        """The store.

        Raises:
            UsageError: If there is none, or several.
        """
        if self.texts.path and self.images:
            raise click.UsageError("expected --texts or --images, got both")
        paths = self.images or ((self.texts.path,) if self.texts.path else ())
        if len(paths) != 1 or paths[0] == "-":
            raise click.UsageError(
                "--engine local and ray need --texts with a file or folder of Parquet, or a file "
                "of Lance or JSON Lines; or --images with a folder of image files, or such a file"
            )
        return paths[0]

    def open(self) -> "tuple[VectorStore, ItemReader]":
        """The store, and what reads the inputs of its rows."""
        from stitchwork.migration.item_readers import FieldItems, FolderItems
        from stitchwork.migration.item_stores import ImageFolder, open_items

        column, path = self.texts.column, Path(self.url)
        is_table = column is not None or path.suffix.lower() == ".lance"
        if self.images and path.is_dir() and not is_table:
            folder = ImageFolder(path, self.url)
            return folder, FolderItems(folder.path)
        store = open_items(self.url)
        return store, FieldItems.choose(store, self.modality, column)


def embed_in_bulk(
    client: "Stitchwork",
    output: Output,
    space: str,
    target: str,
    inputs: BulkInputs,
    options: EngineOptions,
    actor_cpus: int,
) -> None:
    """Embed the texts or images of a store into another store, which is created."""
    options.check()
    url = inputs.url
    needs_torch = ("torch",) if options.engine == "local" else ()
    packages = (*needs_torch, "pydantic_settings", "prometheus_client")
    require(f"embed --engine {options.engine}", packages, "worker")
    require(f"embed --engine {options.engine}", ("pyarrow",), "parquet")
    from stitchwork.bootstrap.bulk import encoder_opener
    from stitchwork.migration.embedding import Embedding
    from stitchwork.migration.file_shards import FileShard, move_shard
    from stitchwork.migration.item_stores import open_items_file
    from stitchwork.migration.local_engine import StoreMove
    from stitchwork.migration.stores import client_errors, open_store, state_folder

    settings = load({})

    def actors() -> "ActorResources":
        from stitchwork.migration.ray_session import ActorResources

        return ActorResources(actor_cpus, 0 if settings.device == "cpu" else None)

    engine = options.open_engine("embed", actors)
    shard = FileShard.parse(options.shard) if options.shard else None
    source, reader = inputs.open()
    embedding = Embedding.of(
        client,
        space,
        source,
        reader,
        encoder_opener(settings),
        input_type=inputs.input_type,
        truncate=inputs.truncate,
    )
    default = IMAGE_BLOCK_ROWS if inputs.modality == "image" else TEXT_BLOCK_ROWS
    folder, rows = options.checkpoint or state_folder(target), options.block_rows or default
    with progress_bar("embed", visible=output.has_progress) as progress:
        if shard is None:
            with open_store(target) as new, client_errors(source, new):
                move = StoreMove(source, new, embedding, folder, rows, progress, engine)
                results = [move.run()]
        else:
            results = move_shard(
                url,
                target,
                embedding,
                folder,
                shard,
                block_rows=rows,
                open_source=open_items_file,
                progress=progress,
            )
    names = {} if shard is None else {"shard": f"{shard.index}/{shard.count}"}
    _show(output, {"source": url, "target": target, **names}, results, embedding.width)


def _show(output: Output, names: dict[str, Any], results: "list[MoveResult]", width: int) -> None:
    """Print what was done; of a table, the warnings are on standard error."""
    counts = ("rows", "written", "rejected", "resumed_at")
    sums = {name: sum(getattr(result, name) for result in results) for name in counts}
    seconds = sum(result.seconds for result in results)
    warnings = [warning for result in results for warning in result.warnings]
    fields = {
        **names,
        **({"files": len(results)} if "shard" in names else {}),
        **sums,
        "width": width,
        "rejects": [str(result.rejects) for result in results if result.rejected],
        "seconds": round(seconds, 3),
        "rows_per_second": round((sums["rows"] - sums["resumed_at"]) / max(seconds, 1e-9), 1),
        **(results[0].versions if results else {}),
    }
    output.record({**fields, "warnings": warnings} if output.as_json else fields)
    output.warn(warnings)
