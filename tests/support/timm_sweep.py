"""Compares the image encoder with timm for every architecture that has pretrained weights.

`python -m tests.support.timm_sweep --date 2026-11-30` writes the table of the documentation anew.
Of each family, the smallest architecture is saved with random weights, and its rows and logits are
compared with timm's own. The others run on tensors without data, which yields their width.
"""

import argparse
import collections
import multiprocessing
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import timm
import torch

from stitchwork.errors import StitchworkError
from stitchwork.models.timm_classifier import image_classifier
from stitchwork.models.timm_config import LIBRARY_ERRORS, reason
from stitchwork.models.timm_encoder import TimmEncoder
from stitchwork.models.timm_features import (
    compute_features,
    remove_classifier,
    sample_pixels,
)
from stitchwork.resources import ImageEncoder
from tests.support.timm_models import save_random

PATH: Final = Path(__file__).parents[2] / "docs" / "operations" / "timm-architectures.md"
MAX_PARAMETERS: Final = 150_000_000
"""Larger models are not computed, only their widths."""
MIN_COSINE: Final = 0.9999
MAX_DIFFERENCE: Final = 1e-4
"""Of a logit, as a share of the largest one."""
PROCESSES: Final = 2
EQUAL, WIDTH, REFUSED, DIFFERENT = "equal (computed)", "width only", "refused", "different"
IMAGES: Final = 2


class Row(NamedTuple):
    """The result for one architecture.

    Attributes:
        name: The architecture.
        family: The class of its model.
        parameters: Number of its parameters.
        num_features: What timm calls the number of its features.
        width: Width of its rows; 0 if it is refused.
        outcome: How its rows compare with timm's.
        detail: Why it is refused, or how it differs.
        classifier: How its classifier compares with the whole model's logits, if it was computed.
    """

    name: str
    family: str
    parameters: int
    num_features: int
    width: int
    outcome: str
    detail: str = ""
    classifier: str = ""


def architectures() -> list[str]:
    """Every architecture that timm has pretrained weights for."""
    return sorted({name.partition(".")[0] for name in timm.list_models(pretrained=True)})


def measure_width(name: str) -> Row:
    """The width of an architecture, by a forward pass on tensors without data."""
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        parameters = sum(tensor.numel() for tensor in model.parameters())
        row = Row(name, type(model).__name__, parameters, model.num_features, 0, WIDTH)
        try:
            spec = ImageEncoder(model=name)
            remove_classifier(spec, model)
            pixels = torch.empty(1, *model.pretrained_cfg["input_size"])
            width = compute_features(spec, model, pixels).shape[1]
        except StitchworkError as error:
            return row._replace(outcome=REFUSED, detail=error.message)
    return row._replace(width=width)


def compute(row: Row) -> Row:
    """The row of an architecture whose rows and logits are compared with timm's."""
    try:
        return _compute(row)
    except LIBRARY_ERRORS as error:
        return row._replace(outcome=DIFFERENT, detail=f"{type(error).__name__}: {reason(error)}")


def _compute(row: Row) -> Row:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = save_random(row.name, folder)
        spec = ImageEncoder(model=row.name, weights=name)
        try:
            encoder = TimmEncoder(spec, torch.device("cpu"), folder, compile_models=False)
        except StitchworkError as error:
            return row._replace(outcome=REFUSED, detail=error.message)
        pixels = sample_pixels(IMAGES, model.pretrained_cfg["input_size"])
        with torch.inference_mode():
            logits = model(pixels)
            rows = encoder.forward(list(pixels))
            model.reset_classifier(0)
            expected = model(pixels)
        row = row._replace(classifier=_compare_classifier(spec, folder, expected, logits))
    cosine = float(torch.nn.functional.cosine_similarity(rows, expected).min())
    if rows.shape != expected.shape or not cosine >= MIN_COSINE or encoder.dim != row.width:
        return row._replace(outcome=DIFFERENT, detail=f"cosine {cosine:.5f}, width {encoder.dim}")
    return row._replace(outcome=EQUAL)


def _compare_classifier(
    spec: ImageEncoder, folder: Path, rows: torch.Tensor, logits: torch.Tensor
) -> str:
    try:
        classifier = image_classifier(spec, folder).define({}).classifier
    except StitchworkError as error:
        return f"{REFUSED}: {error.message}"
    computed = torch.from_numpy(classifier.logits(rows.numpy()))
    difference = float((computed - logits).abs().max() / logits.abs().max())
    return (
        EQUAL
        if difference <= MAX_DIFFERENCE
        else f"{DIFFERENT}: by {difference:.3g} of the largest logit"
    )


def sweep(names: Sequence[str]) -> list[Row]:
    """The results of architectures, computed for the smallest of each family."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES, torch.set_num_threads, (1,)) as pool:
        rows = {row.name: row for row in pool.imap_unordered(measure_width, names, 8)}
        smallest = {
            row.family: row for row in sorted(rows.values(), key=lambda row: -row.parameters)
        }
        candidates = [
            row
            for row in smallest.values()
            if row.outcome == WIDTH and row.parameters <= MAX_PARAMETERS
        ]
        rows |= {row.name: row for row in pool.imap_unordered(compute, candidates)}
    return [rows[name] for name in names]


def table(rows: Sequence[Row], date: str) -> str:
    """The results as Markdown."""
    counts = collections.Counter(row.outcome for row in rows)
    heads = collections.Counter(row.classifier.partition(":")[0] for row in rows if row.classifier)
    families: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    wider = [row for row in rows if row.width not in (0, row.num_features)]
    refused = [row for row in rows if row.outcome == REFUSED]
    different = [row for row in rows if DIFFERENT in (row.outcome, row.classifier[:9])]
    return "\n".join(
        [
            "# Architectures of timm",
            "",
            f"How the image encoder runs the architectures of timm {timm.__version__} that have "
            f"pretrained weights, as of {date}; written by `python -m tests.support.timm_sweep`.",
            "",
            "- **equal (computed)**: saved with random weights, embedded by the encoder, and equal "
            "to timm's own forward pass without classes, in width and to a cosine of "
            f"{MIN_COSINE};",
            "- **width only**: the announced width is that of a forward pass on tensors without "
            "data;",
            "- **refused**: the registration fails with the message below.",
            "",
            *_markdown(("Rows", "Architectures"), [(k, counts[k]) for k in sorted(counts)]),
            "",
            '`"classifier": true`, of the computed architectures:',
            "",
            *_markdown(("Logits", "Architectures"), [(k, heads[k]) for k in sorted(heads)]),
            "",
            f"Silently different: {len(different)}.",
            "",
            "## Families",
            "",
            *_markdown(
                ("Family", "Architectures", "Computed", "Width", "Rows", "Classifier"),
                [_family(name, family) for name, family in sorted(families.items())],
            ),
            "",
            "## Refused",
            "",
            *_markdown(("Architecture", "Words"), [(row.name, row.detail) for row in refused]),
            "",
            "## Wider than `num_features`",
            "",
            f"Heads of {len(wider)} architectures keep a hidden layer, whose width is that of the "
            "rows.",
            "",
            *_markdown(
                ("Architecture", "`num_features`", "Width"),
                [(row.name, row.num_features, row.width) for row in wider],
            ),
            "",
        ]
    )


def _family(name: str, rows: Sequence[Row]) -> tuple[Any, ...]:
    row = min(rows, key=lambda row: (row.outcome != EQUAL, row.parameters))
    return name, len(rows), row.name, row.width or "", row.outcome, row.classifier


def _markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True, help="Date that the table names.")
    parser.add_argument("--output", type=Path, default=PATH)
    options = parser.parse_args()
    options.output.write_text(table(sweep(architectures()), options.date))


if __name__ == "__main__":
    main()
