"""`stitchwork moves`."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from stitchwork.cli.client_options import ClientCommand
from stitchwork.cli.output import Output

if TYPE_CHECKING:
    # Takes longer to import than the command line takes to print its help.
    from stitchwork.client import Stitchwork

COLUMNS: Final = (
    *("source", "target", "from", "to", "status", "rows", "total", "rows/s", "left out"),
    *("recall@10", "action", "updated"),
)


@click.command(cls=ClientCommand)
def moves(client: "Stitchwork", output: Output) -> None:
    """List running and past moves of stores, the latest first.

    `stitchwork migrate` reports them; `recall@10` and `action` are of `stitchwork assess --moved`.
    Where keys are required, it needs one with the scope `read`.
    """
    records = client.moves()
    output.show(records, COLUMNS, map(_row, records))


def _row(record: dict[str, Any]) -> list[Any]:
    versions, assessment = record["versions"], record.get("assessment") or {}
    updated = datetime.fromisoformat(record["updated"]).astimezone()
    rate = record["rows_per_second"]
    return [
        record["source"],
        record["target"],
        versions["source"],
        versions["target"],
        record["status"],
        record["rows"],
        record["total"],
        None if rate is None else round(rate),
        record["rejected"],
        assessment.get("recall_at_10_translated_store"),
        assessment.get("action"),
        updated.isoformat(" ", "seconds"),
    ]
