"""The names of the classes that the files of a pretrained model give."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from stitchwork.resources import EncoderSpec, ImageEncoder

CLASSIFIER: Final = "Classification"
"""Part of the names of transformers' classes with a classifier, whose labels mean something."""


def label_names(spec: EncoderSpec, files: Path) -> tuple[str, ...]:
    """The names of the classes of a model's own classifier, in order; empty if there are none.

    Args:
        spec: The encoder.
        files: The folder of a transformers model, or the weights of a timm model.
    """
    if isinstance(spec, ImageEncoder):
        from stitchwork.models.timm_config import read_config, with_architecture
        from stitchwork.models.timm_weights import find_weights

        known = with_architecture(spec, files)
        return _in_order(read_config(known, find_weights(files)).labels)
    file = files / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if not any(CLASSIFIER in str(name) for name in config.get("architectures") or ()):
        return ()
    return _in_order(config.get("id2label"))


def _in_order(names: Any) -> tuple[str, ...]:
    """Names in the order of their classes, which a mapping has as keys."""
    if isinstance(names, Mapping):
        return tuple(str(names[index]) for index in sorted(names, key=int))
    return tuple(str(name) for name in names or ())
