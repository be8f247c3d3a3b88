"""`stitchwork translate|classify|embed|stitch|compatibility|export`."""

import argparse
import time
from pathlib import Path
from typing import Any

from stitchwork.cli.files import NpyRows, items, named, npy_sink
from stitchwork.cli.output import record, short, show, wants_bar
from stitchwork.client import FileFormat, Stitchwork


def translate(client: Stitchwork, options: argparse.Namespace) -> None:
    """Translate an .npy file into another; neither is ever in memory as a whole."""
    rows = NpyRows(options.input)
    began = time.perf_counter()
    with npy_sink(options.output, rows.shape[0]) as sink:
        found = client.translation(
            rows,
            options.source,
            options.target,
            options.bridge,
            out=sink,
            progress=wants_bar(options),
        )
    seconds = time.perf_counter() - began
    told = {
        "output": str(options.output),
        "rows": rows.shape[0],
        "width_in": rows.shape[1],
        "width_out": sink.width,
        "undefined": len(found.undefined),
        "uncovered": len(found.uncovered),
        "seconds": round(seconds, 3),
        "rows_per_second": round(rows.shape[0] / seconds, 1),
    }
    record(options, told)


def classify(client: Stitchwork, options: argparse.Namespace) -> None:
    """Classify the rows of an .npy file."""
    found = client.classify(
        options.head,
        NpyRows(options.input),
        options.space,
        options.bridge,
        options.top,
        progress=wants_bar(options),
    )
    _predictions(options, found, [str(i) for i in range(len(found))])


def embed(client: Stitchwork, options: argparse.Namespace) -> None:
    """Embed texts or images into an .npy file."""
    given = items(options, default="-") or []
    with npy_sink(options.output, len(given)) as sink:
        client.embed(
            options.encoder,
            given,
            options.target,
            options.bridge,
            out=sink,
            progress=wants_bar(options),
        )
    record(options, {"output": str(options.output), "rows": len(given), "width": sink.width})


def stitch(client: Stitchwork, options: argparse.Namespace) -> None:
    """Classify texts or images."""
    given = items(options, default="-") or []
    found = client.stitch(
        options.encoder,
        options.head,
        given,
        options.bridge,
        options.top,
        progress=wants_bar(options),
    )
    _predictions(options, found, named(given))


def compatibility(client: Stitchwork, options: argparse.Namespace) -> None:
    """Show how well the spaces of a set translate into each other."""
    found = client.compatibility(options.anchor_set, options.bridge, options.spaces)
    columns = ("source", "target", "verdict", "similarity", "recall_at_1", "agreement", "reason")
    rows = [[pair[column] for column in columns] for pair in found["pairs"]]
    show(options, found, [column.replace("_", " ") for column in columns], rows)


def export(client: Stitchwork, options: argparse.Namespace) -> None:
    """Save a translation as a file."""
    kind: FileFormat = options.format or "safetensors"
    if options.format is None and options.out and options.out.suffix == ".onnx":
        kind = "onnx"
    data = client.export(
        options.source, options.target, options.bridge, head=options.head, format=kind
    )
    out: Path = options.out or Path(f"{options.source}-to-{options.target}.{kind}")
    out.write_bytes(data)
    record(options, {"output": str(out), "format": kind, "bytes": len(data)})


def _predictions(
    options: argparse.Namespace, found: list[dict[str, Any]], names: list[str]
) -> None:
    told = [{"input": name, **one} for name, one in zip(names, found, strict=True)]
    columns, rows = ["input", "label", "score", "confidence"], []
    for one in told:
        row = [short(one["input"]), one["label"], one["score"], one["confidence"]]
        if options.top > 1:
            row.append({other["label"]: other["score"] for other in one["top"][1:]})
        rows.append(row)
    show(options, told, [*columns, "others"] if options.top > 1 else columns, rows)
