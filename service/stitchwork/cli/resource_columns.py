"""The columns of the tables of anchor sets, spaces and heads."""

from collections.abc import Callable
from typing import Any, Final

Record = dict[str, Any]
Column = tuple[str, Callable[[Record], Any]]


def _field(name: str) -> Column:
    return name.replace("_", " "), lambda record: record.get(name)


def _layer_text(layer: Record) -> str:
    if layer["kind"] == "linear":
        return f"{layer['inputs']} → {layer['outputs']}"
    return str(layer["kind"])


_VERSION: Final[Column] = ("version", lambda record: record["version"][:8])
_STATUS: Final[Column] = (
    "status",
    lambda one: one["status"] + (f" (next {one['pending']['status']})" if "pending" in one else ""),
)
_REASON: Final[Column] = (
    "reason",
    lambda record: record.get("reason") or record.get("pending", {}).get("reason"),
)
COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "anchor-sets": (
        _field("id"),
        _field("modality"),
        _field("size"),
        ("items", lambda record: "yes" if record.get("has_items") else "no"),
        ("ids", lambda record: "yes" if record.get("ids") else "no"),
        _VERSION,
    ),
    "spaces": (
        _field("id"),
        _STATUS,
        _field("anchor_set"),
        ("anchors", lambda record: record.get("size")),
        ("width", lambda record: record.get("dim")),
        _field("rank"),
        _field("condition_number"),
        _field("agreement"),
        ("model", lambda record: (record.get("encoder") or {}).get("model")),
        _VERSION,
        _REASON,
    ),
    "heads": (
        _field("id"),
        _STATUS,
        _field("space"),
        ("classes", lambda record: len(record["labels"]) if "labels" in record else None),
        ("layers", lambda record: ", ".join(map(_layer_text, record.get("layers", ())))),
        _field("source"),
        _field("train_accuracy"),
        _VERSION,
        _REASON,
    ),
}
