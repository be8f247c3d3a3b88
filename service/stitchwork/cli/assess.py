"""`stitchwork assess`."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from stitchwork.cli.client_options import ClientCommand, bridge_option, move_options, parse_id
from stitchwork.cli.encoder_fields import encoder_fields
from stitchwork.cli.output import Output
from stitchwork.cli.text_options import text_options, text_reader
from stitchwork.errors import InvalidInputError

if TYPE_CHECKING:
    # Takes longer to import than the command line takes to refuse a wrong option.
    from stitchwork.client import Stitchwork

FILE: Final = click.Path(path_type=Path)
NO_TEXTS: Final = (
    "Without texts (--text or --texts), only coverage is known: recall cannot be predicted."
)


@click.command(cls=ClientCommand)
@click.argument("source", metavar="STORE")
@move_options("The space of the new model.")
@bridge_option
@text_options
@click.option(
    "--queries",
    type=FILE,
    metavar="FILE",
    help="Texts to search for, one on each line [default: those of the sample].",
)
@click.option(
    "--query-type", metavar="TEXT", help="Prompt of the new model for --queries, such as query."
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    metavar="COUNT",
    help="Rows to sample, whose texts are embedded [default: 2000].",
)
@click.option("--seed", type=int, default=1, help="Of the sample [default: 1].")
@click.option(
    "--moved", metavar="TARGET", help="The store that a move has written: judge its rows."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="With --moved: the folder of the move's checkpoint, if `migrate` had one. The service "
    "lists the assessment with the move.",
)
@click.option("--report", type=FILE, metavar="FILE.html", help="Write a report with plots.")
@click.option(
    "--anchors",
    type=click.IntRange(2),
    metavar="COUNT",
    help="First choose this many rows as anchors, and register both spaces.",
)
@click.option(
    "--anchor-set",
    metavar="SET",
    type=parse_id,
    help="With --anchors: its id [default: FROM-to-TO].",
)
@click.option("--text-model", metavar="MODEL", help="With --anchors: a transformers model.")
@click.option("--dtype", metavar="DTYPE", help="With --text-model: its precision.")
@click.option("--encoder", metavar="JSON", help="With --anchors: all fields of the new encoder.")
def assess(
    client: "Stitchwork",
    output: Output,
    source: str,
    source_space: str,
    target_space: str,
    bridge: str | None,
    text: str | None,
    texts: Path | None,
    queries: Path | None,
    query_type: str | None,
    sample: int | None,
    seed: int,
    moved: str | None,
    checkpoint: Path | None,
    report: Path | None,
    anchors: int | None,
    anchor_set: str | None,
    text_model: str | None,
    dtype: str | None,
    encoder: str | None,
) -> None:
    """Predict what a change of its model costs a store of vectors, or measure it afterwards.

    Samples the store, embeds the texts of the sample with the new model, and predicts recall@10 at
    the size of the store: for queries translated into the store as it is, and for the translated
    store, each as a share of what embedding everything anew finds. With --moved, the rows that
    `stitchwork migrate` wrote are judged. STORE and TARGET are as there.
    """
    from stitchwork.cli.files import read_lines
    from stitchwork.migration.reported_moves import ReportedMove, report_assessment
    from stitchwork.migration.store_anchors import register_anchors
    from stitchwork.migration.store_assessment import (
        SAMPLE_ROWS,
        AssessmentOptions,
        assess_store,
    )
    from stitchwork.migration.stores import client_errors, open_store

    reader = text_reader(text, texts)
    model = encoder_fields(text_model, None, None, None, dtype, encoder)
    if (anchors is None) != (model is None):
        raise InvalidInputError("expected --anchors with --text-model or --encoder, or neither")
    if checkpoint is not None and moved is None:
        raise InvalidInputError("expected --moved, the store that was written, with --checkpoint")
    if anchors is not None and text is None and texts is None:
        raise InvalidInputError("expected --text or --texts, which --anchors are embedded from")
    options = AssessmentOptions(
        source_space,
        target_space,
        bridge,
        sample or SAMPLE_ROWS,
        None if queries is None else read_lines(queries),
        query_type,
        seed,
    )
    move = None if moved is None else ReportedMove.read(moved, checkpoint)
    with ExitStack() as stack:
        store = stack.enter_context(open_store(source))
        target = None if moved is None else stack.enter_context(open_store(moved))
        stack.enter_context(client_errors(store, *([] if target is None else [target])))
        if anchors is not None and model is not None:
            register_anchors(
                client,
                store,
                reader,
                anchors,
                anchor_set=anchor_set or f"{source_space}-to-{target_space}",
                source_space=source_space,
                target_space=target_space,
                encoder=model,
            )
        result = assess_store(client, store, reader, options, target)
    if report is not None:
        from stitchwork.migration.assessment_report import write_report

        write_report(report, result.fields, result.assessment, result.advice, result.facts)
    advice = result.advice
    action = None if advice is None else advice.action
    reasons = [NO_TEXTS] if advice is None else list(advice.reasons)
    warnings = list(result.warnings)
    if move is not None:
        warnings += report_assessment(client, move, result)
    if output.as_json:
        output.show({**result.fields, "action": action, "reasons": reasons, "warnings": warnings})
        return
    fields = {name: cell for name, cell in result.fields.items() if name != "anchor_curve"}
    output.record({**fields, "action": action})
    for reason in reasons:
        click.echo(f"\n{reason}")
    output.warn(warnings)
