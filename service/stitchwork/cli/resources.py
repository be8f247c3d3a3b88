"""`stitchwork anchors|spaces|heads list|show|put|delete`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from stitchwork.cli.files import Files, NpyRows, items, lines
from stitchwork.cli.output import record, show, wants_bar
from stitchwork.client import Floats, Kind, Stitchwork
from stitchwork.errors import InvalidInputError, UnknownResourceError

Column = tuple[str, Callable[[dict[str, Any]], Any]]


def _field(name: str) -> Column:
    return name.replace("_", " "), lambda told: told.get(name)


_VERSION: Final[Column] = ("version", lambda told: told["version"][:8])
_STATUS: Final[Column] = (
    "status",
    lambda told: told["status"] + (" (next pending)" if "pending" in told else ""),
)
COLUMNS: Final[dict[Kind, tuple[Column, ...]]] = {
    "anchor-sets": (
        _field("id"),
        _field("modality"),
        _field("size"),
        ("items", lambda told: "yes" if told.get("has_items") else "no"),
        ("ids", lambda told: "yes" if told.get("ids") else "no"),
        _VERSION,
    ),
    "spaces": (
        _field("id"),
        _STATUS,
        _field("anchor_set"),
        ("anchors", lambda told: told.get("size")),
        ("width", lambda told: told.get("dim")),
        _field("rank"),
        _field("condition_number"),
        _field("agreement"),
        ("model", lambda told: (told.get("encoder") or {}).get("model")),
        _VERSION,
    ),
    "heads": (
        _field("id"),
        _STATUS,
        _field("space"),
        ("classes", lambda told: len(told["labels"]) if "labels" in told else None),
        ("layers", lambda told: " → ".join(map(str, told.get("layers", ())))),
        _field("source"),
        _field("train_accuracy"),
        _VERSION,
    ),
}


def listing(client: Stitchwork, options: argparse.Namespace) -> None:
    """List all records of a kind."""
    found = client.records(options.kind)
    columns = COLUMNS[options.kind]
    rows = [[read(told) for _, read in columns] for told in found]
    show(options, found, [name for name, _ in columns], rows)


def show_one(client: Stitchwork, options: argparse.Namespace) -> None:
    """Show one record."""
    record(options, client.get(options.kind, options.id))


def delete(client: Stitchwork, options: argparse.Namespace) -> None:
    """Remove records."""
    for id_ in options.ids:
        client.delete(options.kind, id_)
    show(options, {"deleted": options.ids}, ("deleted",), [[id_] for id_ in options.ids])


def put_anchor_set(client: Stitchwork, options: argparse.Namespace) -> None:
    """Declare an anchor set."""
    given = items(options)
    ids = lines(options.ids) if options.ids else None
    told = client.put_anchor_set(
        options.id, _modality(given), items=given, ids=ids, size=options.size
    )
    record(options, told)


def put_space(client: Stitchwork, options: argparse.Namespace) -> None:
    """Register a space and, where its inputs are given, its anchor set first."""
    anchors, encoder = _anchors(options.anchors), _encoder(options)
    if (anchors is None) == (encoder is None):
        raise InvalidInputError(
            "expected either --anchors, or a model to embed the anchor set with"
        )
    ids = lines(options.ids) if options.ids else None
    given = items(options)
    if given is not None:
        client.put_anchor_set(options.anchor_set, _modality(given), items=given, ids=ids)
    if encoder:
        ids = None
    new = anchors is not None and given is None and not _stands(client, options.anchor_set)
    told = client.put_space(
        options.id, options.anchor_set, anchors=anchors, encoder=encoder, ids=ids
    )
    if new:
        note = f"anchor set {options.anchor_set} is new: no other space is on it yet"
        print(f"stitchwork: {note}", file=sys.stderr)  # noqa: T201
    _settled(client, options, "spaces", told)


def put_head(client: Stitchwork, options: argparse.Namespace) -> None:
    """Register a head by its weights, by its space's own model, or by what it is fitted on."""
    given = items(options)
    labels = lines(options.labels) if options.labels else None
    ways = [options.weights, options.embeddings, given, options.classifier or None]
    if sum(way is not None for way in ways) != 1:
        raise InvalidInputError(
            "expected one of --weights, --embeddings, --texts, --images and --classifier"
        )
    told: dict[str, Any] = {}
    arrays: dict[str, Floats] | None = None
    if options.classifier:
        told["classifier"] = True
    elif options.weights:
        arrays, told = _weights(options.weights)
        told |= {"activation": options.activation} if options.activation else {}
        told |= {"labels": labels} if labels is not None else {}
    elif labels is None:
        raise InvalidInputError("expected --labels, one for each row or input")
    elif given is not None:
        told["fit"] = {"items": given, "labels": labels}
    else:
        arrays, told = {"embeddings": _rows(options.embeddings)}, {"labels": labels}
    found = client.put_head(options.id, options.space, arrays=arrays, **told)
    _settled(client, options, "heads", found)


def _stands(client: Stitchwork, anchor_set: str) -> bool:
    try:
        client.get("anchor-sets", anchor_set)
    except UnknownResourceError:
        return False
    return True


def _settled(
    client: Stitchwork, options: argparse.Namespace, kind: Kind, told: dict[str, Any]
) -> None:
    under_way = told.get("pending", told)["status"] == "pending"
    if under_way and not options.no_wait:
        outcome = {"outcome": told["outcome"]}
        told = client.wait(kind, options.id, progress=wants_bar(options)) | outcome
    record(options, told)


def _modality(given: list[str] | Files | None) -> str:
    if given is None:
        return "vector"
    return "image" if isinstance(given, Files) else "text"


def _encoder(options: argparse.Namespace) -> dict[str, Any] | None:
    given = [options.text_model, options.image_model, options.encoder]
    if sum(part is not None for part in given) > 1:
        raise InvalidInputError("expected one of --text-model, --image-model and --encoder")
    if options.encoder:
        try:
            told: dict[str, Any] = json.loads(options.encoder)
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"--encoder: expected JSON: {error}") from error
        return told
    if options.text_model:
        return {"kind": "transformers", "model": options.text_model}
    if options.image_model:
        own = {"weights": options.weights, "input_size": options.input_size}
        named = {name: value for name, value in own.items() if value is not None}
        return {"kind": "timm", "model": options.image_model, **named}
    return None


def _anchors(path: Path | None) -> Floats | None:
    return None if path is None else _rows(path)


def _rows(path: Path) -> Floats:
    rows: Floats = np.asarray(NpyRows(path)[:], np.float32)
    return rows


def _weights(path: Path) -> tuple[dict[str, Floats], dict[str, Any]]:
    """The tensors of a safetensors file, and the labels and activation in its metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = file.metadata() or {}
    except SafetensorError as error:
        raise InvalidInputError(f"{path}: expected a safetensors file: {error}") from error
    told: dict[str, Any] = {}
    if "labels" in meta:
        told["labels"] = json.loads(meta["labels"])
    if "activation" in meta:
        told["activation"] = meta["activation"].strip('"')
    return arrays, told
