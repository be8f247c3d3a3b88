"""`python -m benchmarks.gpu`: what a worker's GPU computes, how fast, and in how much memory."""

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gpu.models import BenchmarkModel, write_bert, write_models
from benchmarks.gpu.passes import (
    BATCH_SIZES,
    Figure,
    bare_seconds,
    batch_sizes,
    batched,
    equality,
    load,
    mixed_load,
    out_of_memory,
)
from benchmarks.gpu.serving import serving
from stitchwork.cli.main import run as run_command
from stitchwork.errors import UnavailableError

MODELS: Final = 10
"""Models of the mixed load."""


@click.command()
@click.option(
    "--device",
    default="cuda",
    show_default=True,
    help="Device to measure. With cpu, the same steps run with small models, without goals.",
)
def main(device: str) -> int:
    """Measure a worker's GPU, with models of real shapes and random weights; takes minutes."""
    logging.getLogger().setLevel(logging.ERROR)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UnavailableError(
            "this machine has no GPU that torch can use; --device cpu tries the steps"
        )
    console = Console()
    small = device == "cpu"
    if small:
        # Threads cost small models more than they gain.
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="stitchwork-gpu-") as folder:
        figures = []
        for figure in measure(Path(folder), torch.device(device), small=small):
            console.print(f"  {figure.step}: {figure.model}: {figure.value}", highlight=False)
            figures.append(figure)
    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else "small models on a CPU"
    )
    console.print(_table(name, figures, with_goals=not small))
    return 0 if small or all(figure.is_met for figure in figures) else 1


def measure(folder: Path, device: torch.device, *, small: bool) -> Iterator[Figure]:
    """All steps, one after another."""
    models = write_models(folder, small=small)
    bare = dict[str, tuple[float, float]]()
    for model in models:
        yield from equality(model, device)
        local = load(model, device)
        figure, size, rate = batch_sizes(local, BATCH_SIZES[:3] if small else BATCH_SIZES)
        yield figure
        bare[model.name] = (rate, bare_seconds(local, 1))
        yield from batched(local, size, 4 * size if small else 32 * size, rate)
        del local
    text_model = models[0] if small else models[1]
    yield from out_of_memory(text_model, device, 256 if small else 2048)
    yield from mixed_load(_many_models(folder, small=small), device, 1 if small else 3)
    yield from serving(models, str(device), 20 if small else 400, bare)


def _many_models(folder: Path, *, small: bool) -> list[BenchmarkModel]:
    layers, width = (1, 32) if small else (6, 384)
    return [
        write_bert(folder / f"mixed{i}", f"mixed {i}", layers=layers, width=width)
        for i in range(MODELS)
    ]


def _table(name: str, figures: Sequence[Figure], *, with_goals: bool) -> Table:
    table = Table(title=name)
    for column in ("step", "model", "result", *(("goal",) if with_goals else ())):
        table.add_column(column)
    for figure in figures:
        cells = (figure.step, figure.model, figure.value)
        style = "bold red" if with_goals and not figure.is_met else None
        table.add_row(*cells, *((figure.goal,) if with_goals else ()), style=style)
    return table


if __name__ == "__main__":
    sys.exit(run_command(main, "python -m benchmarks.gpu"))
