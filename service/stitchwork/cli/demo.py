"""`stitchwork demo`: encoders and heads stitched to each other on real data."""

import click

from stitchwork.cli.settings_options import SettingsCommand
from stitchwork.settings import Settings


@click.command(cls=SettingsCommand, settings={"log_level"})
@click.option(
    "--dataset",
    type=click.Choice(["digits", "fashion-mnist"]),
    default="digits",
    show_default=True,
    help="Images to classify.",
)
@click.option("--keep", is_flag=True, help="Leave the service running afterwards.")
@click.option(
    "--input-size",
    type=int,
    metavar="PIXELS",
    help="Side of the encoders' images [default: the data set's].",
)
def demo(settings: Settings, dataset: str, keep: bool, input_size: int | None) -> int:
    """Stitch three real image encoders to each other's heads, and print the accuracies."""
    from stitchwork.demo.demo import demo as run

    return run(dataset, keep=keep, input_size=input_size)
