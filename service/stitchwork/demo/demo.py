"""`stitchwork demo`: three real image encoders and heads, stitched pairwise over HTTP."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Final

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from stitchwork.client import Floats, Kind, Stitchwork
from stitchwork.errors import JobFailedError
from stitchwork.evaluation.image_datasets import DATASETS, Split
from stitchwork.evaluation.progress_bar import progress
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from stitchwork.geometry.calibration import wilson_interval
from stitchwork.models.packaged_encoders import write_efficientnet_lite
from stitchwork.supervisor import Plan, ServiceProcess, start

ENCODERS: Final = ("lite0", "lite1", "lite2")
BRIDGES: Final = ("none", "irp", "ridge", DEFAULT_BRIDGE)
ANCHOR_SET: Final = "demo-images"
RAW_IMAGES: Final = 20
"""Held-out images of a pair that are sent to `/stitch` as raw files, to check the whole path."""
CHUNK_SIZE: Final = 100


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Accuracies over the held-out images.

    Attributes:
        native: Accuracy of each encoder's head on the encoder's embeddings.
        stitched: Accuracy by (encoder, head, bridge).
        rows: Number of held-out images.
        raw_images: Number of raw images that were sent to `/stitch`.
        raw_agreements: Number of these with the same label from `/classify`.
    """

    native: Mapping[str, float]
    stitched: Mapping[tuple[str, str, str], float]
    rows: int
    raw_images: int
    raw_agreements: int


def demo(dataset: str, *, keep: bool = False, input_size: int | None = None) -> int:
    """Start a service, stitch every encoder to every head, and print the accuracies.

    Args:
        dataset: `digits` or `fashion-mnist`.
        keep: Leave the service running until interrupted.
        input_size: Side of the encoders' input in pixels; None takes the data set's.

    Returns:
        0 if every raw image has the same label from `/stitch` as its embedding from `/classify`.
    """
    console = Console()
    split = DATASETS[dataset]()
    with tempfile.TemporaryDirectory(prefix="stitchwork-demo-") as folder:
        models = Path(folder) / "models"
        models.mkdir()
        console.print("Writing three EfficientNet-Lite encoders as safetensors …")
        weights = {
            name: write_efficientnet_lite(f"tf_efficientnet_{name}", models) for name in ENCODERS
        }
        plan = Plan(
            host="127.0.0.1",
            port=0,
            data_dir=Path(folder) / "data",
            workers=1,
            env={"STITCHWORK_MODEL_ROOTS": str(models), "STITCHWORK_LOG_LEVEL": "warning"},
        )
        with start(plan) as process, Stitchwork(process.url) as client:
            console.print(
                f"Stitchwork listens on {process.url}, with its own servers and a worker."
            )
            with progress(console) as bars:
                result = _measure(client, split, weights, input_size or split.input_size, bars)
            _print_table(console, split, result)
            if keep:
                _run_on(console, process, split, folder)
            else:
                console.print("\n`stitchwork demo --keep` leaves the service running.")
    return 0 if result.raw_agreements == result.raw_images else 1


def _measure(
    client: Stitchwork, split: Split, weights: Mapping[str, Path], input_size: int, bars: Progress
) -> DemoResult:
    client.put_anchor_set(ANCHOR_SET, "image", items=split.train[: split.anchors])
    for name in ENCODERS:
        spec = {
            "kind": "timm",
            "model": f"tf_efficientnet_{name}",
            "weights": str(weights[name]),
            "input_size": input_size,
        }
        client.put_space(name, ANCHOR_SET, encoder=spec)
    _await(client, "spaces", "embedding the anchors", split.anchors, bars)
    for name in ENCODERS:
        client.put_head(name, name, fit={"items": split.train, "labels": split.train_labels})
    _await(client, "heads", "embedding images to fit a head on", len(split.train), bars)
    embedded = {name: _embed(client, name, split.test, bars) for name in ENCODERS}
    native = {
        name: _accuracy(_labels(client, name, name, DEFAULT_BRIDGE, embedded), split)
        for name in ENCODERS
    }
    pairs = list(permutations(ENCODERS, 2))
    task = bars.add_task("classifying through every bridge", total=len(pairs) * len(BRIDGES))
    stitched: dict[tuple[str, str, str], float] = {}
    labels: dict[tuple[str, str], list[str]] = {}
    for source, head in pairs:
        for bridge in BRIDGES:
            predicted = _labels(client, source, head, bridge, embedded)
            stitched[source, head, bridge] = _accuracy(predicted, split)
            if bridge == DEFAULT_BRIDGE:
                labels[source, head] = predicted
            bars.advance(task)
    task = bars.add_task("sending raw images to /stitch", total=len(pairs) * RAW_IMAGES)
    agreed = 0
    for source, head in pairs:
        raw = client.stitch(source, head, split.test[:RAW_IMAGES])
        agreed += sum(
            prediction["label"] == label
            for prediction, label in zip(raw, labels[source, head], strict=False)
        )
        bars.advance(task, RAW_IMAGES)
    return DemoResult(native, stitched, len(split.test), len(pairs) * RAW_IMAGES, agreed)


def _labels(
    client: Stitchwork, source: str, head: str, bridge: str, embedded: Mapping[str, Floats]
) -> list[str]:
    return [one["label"] for one in client.classify(head, embedded[source], source, bridge)]


def _accuracy(predicted: list[str], split: Split) -> float:
    return float(np.mean([a == b for a, b in zip(predicted, split.test_labels, strict=True)]))


def _embed(client: Stitchwork, name: str, items: list[bytes], bars: Progress) -> Floats:
    task = bars.add_task(f"{name}: embedding the held-out images", total=len(items))
    parts = []
    for offset in range(0, len(items), CHUNK_SIZE):
        parts.append(client.embed(name, items[offset : offset + CHUNK_SIZE]))
        bars.advance(task, len(parts[-1]))
    return np.concatenate(parts)


def _await(client: Stitchwork, kind: Kind, label: str, total: int, bars: Progress) -> None:
    """Wait for the spaces or heads of all encoders, which one worker prepares concurrently."""
    tasks = {name: bars.add_task(f"{name}: {label}", total=total) for name in ENCODERS}
    for name in ENCODERS:

        def report(done: int, _: int, name: str = name) -> None:
            bars.update(tasks[name], completed=done)

        client.wait(kind, name, progress=report)
        bars.update(tasks[name], completed=total)


def _print_table(console: Console, split: Split, result: DemoResult) -> None:
    table = Table(
        title=f"{split.name}: accuracy on n = {result.rows} held-out images, "
        f"{split.anchors} anchors",
        caption="native: the head on its own encoder · absolute: no bridge · "
        f"ratio: {DEFAULT_BRIDGE} to native",
        # Without lines between columns it fits 80 columns.
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("encoder → head", no_wrap=True)
    for name in ("native", "absolute", *BRIDGES[1:], f"95% of {DEFAULT_BRIDGE}", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    pairs = list(permutations(ENCODERS, 2))
    for source, head in pairs:
        accuracies = [result.stitched[source, head, bridge] for bridge in BRIDGES]
        table.add_row(f"{source} → {head}", *_cells(result.native[head], accuracies, result.rows))
    means = [float(np.mean([result.stitched[(*p, b)] for p in pairs])) for b in BRIDGES]
    native = float(np.mean([result.native[head] for _, head in pairs]))
    table.add_section()
    table.add_row("mean", *_cells(native, means, None), style="bold")
    console.print(table)
    console.print(
        f"{result.raw_agreements} of {result.raw_images} raw images have the same label "
        "from /stitch as their embeddings from /classify."
    )


def _cells(native: float, accuracies: list[float], rows: int | None) -> list[str]:
    """A line of the table; a mean over pairs has no interval, since their inputs are the same."""
    cells = [f"{value:.3f}" for value in (native, *accuracies)]
    bounds = ""
    if rows is not None:
        low, high = wilson_interval(round(accuracies[-1] * rows), rows)
        bounds = f"{low:.3f} to {high:.3f}"
    return [*cells, bounds, f"{accuracies[-1] / native:.3f}"]


def _run_on(console: Console, process: ServiceProcess, split: Split, folder: str) -> None:
    """Print commands for the running service, and wait until it is interrupted."""
    image = Path(folder) / "image.png"
    image.write_bytes(split.test[0])
    url = process.url
    console.print("\nNext commands:\n", style="bold")
    for line in (
        f"curl -s {url}/spaces/lite0",
        f"curl -s {url}/stitch/lite0/lite2 -F items=@{image} -F top=3",
        f"curl -s {url}/embed/lite0 -F items=@{image} -F target=lite1",
        f"open {url}/",
    ):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    console.print("\nThe service runs until Ctrl-C.")
    try:
        code = process.wait()
    except KeyboardInterrupt:
        return
    raise JobFailedError(f"the service ended by itself, with exit code {code}")
