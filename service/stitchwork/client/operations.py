"""What a client can ask for, each once: how it is sent and how the answer is read."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import httpx
import numpy as np
import orjson
from safetensors.numpy import save

from stitchwork.client.batch_calls import (
    Predictions,
    Translated,
    items_to_predictions,
    items_to_rows,
    rows_to_predictions,
    rows_to_rows,
)
from stitchwork.client.chunks import Floats, Item, Limits, Rows, Sink, json_item
from stitchwork.client.flows import (
    SAFETENSORS,
    Flow,
    Operation,
    Pause,
    Request,
    ask,
    ask_json,
    without_none,
)
from stitchwork.client.progress import Progress, shown
from stitchwork.client.service_errors import json_of
from stitchwork.errors import ErrorCode, StitchworkError

POLL_SECONDS: Final = 0.2
PAGE: Final = 1000

Kind = Literal["anchor-sets", "spaces", "heads"]
FileFormat = Literal["safetensors", "onnx"]
Items: TypeAlias = Sequence[str] | Sequence[bytes]


class Operations:
    """What a client can ask for.

    Args:
        in_flight: Parts of a large call that are under way at the same time.
    """

    def __init__(self, in_flight: int) -> None:
        self.in_flight = in_flight
        self.limits: Limits | None = None

    @Operation
    def info(self) -> Flow[dict[str, Any]]:
        """What the service is, its bridges and its limits."""
        return (yield from ask_json("GET", "/info"))

    @Operation
    def put_anchor_set(
        self,
        id_: str,
        modality: str = "vector",
        *,
        items: Items | None = None,
        ids: Sequence[str] | None = None,
        size: int | None = None,
    ) -> Flow[dict[str, Any]]:
        """Declare an anchor set by its items, by its ids, or only by its size."""
        listed = None if items is None else json_items(items)
        told = {"modality": modality, "items": listed, "ids": ids, "size": size}
        return (yield from ask_json("PUT", _path("anchor-sets", id_), told=without_none(told)))

    @Operation
    def put_space(
        self,
        /,
        id_: str,
        anchor_set: str,
        *,
        anchors: Floats | None = None,
        encoder: dict[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        **parameters: Any,
    ) -> Flow[dict[str, Any]]:
        """Register a space by its (k, d) anchors, or have the service embed the set's items."""
        told = {"anchor_set": anchor_set, "encoder": encoder, "ids": ids, **parameters}
        path = _path("spaces", id_)
        return (yield from _ask_with("PUT", path, without_none(told), anchors=anchors))

    @Operation
    def put_head(
        self, /, id_: str, space: str, *, arrays: dict[str, Floats] | None = None, **told: Any
    ) -> Flow[dict[str, Any]]:
        """Register a head.

        Args:
            id_: The head's id.
            space: Id of its space.
            arrays: `weight` (c, d) and `bias` (c,), or `0.weight`, `0.bias`, `2.weight`, … of an
                MLP, or `embeddings` (n, d) to fit a linear head on, each with `labels`.
            told: `labels`, `activation`, `classifier`, or `fit` with `items` and `labels`; arrays
                too, where their names are names of Python.
        """
        given = {name: told.pop(name) for name in [*told] if isinstance(told[name], np.ndarray)}
        if "fit" in told and "items" in told["fit"]:
            told["fit"] = {**told["fit"], "items": json_items(told["fit"]["items"])}
        told = {"space": space, **told}
        return (yield from _ask_with("PUT", _path("heads", id_), told, **given, **(arrays or {})))

    @Operation
    def get(self, kind: Kind, id_: str) -> Flow[dict[str, Any]]:
        """One record."""
        return (yield from ask_json("GET", _path(kind, id_)))

    @Operation
    def delete(self, kind: Kind, id_: str) -> Flow[None]:
        """Remove one record."""
        yield from ask("DELETE", _path(kind, id_))

    @Operation
    def records(self, kind: Kind) -> Flow[list[dict[str, Any]]]:
        """All records of one kind, in the order of their ids."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            query = {"limit": PAGE, "cursor": cursor}
            page = yield from ask_json("GET", f"/{kind}", query=query)
            found += page["items"]
            cursor = page["cursor"]
            if cursor is None:
                return found

    @Operation
    def wait(
        self,
        kind: Kind,
        id_: str,
        *,
        timeout: float = 600.0,
        progress: Progress | bool = False,
    ) -> Flow[dict[str, Any]]:
        """Wait until what was registered last under an id serves.

        Args:
            kind: The kind of record.
            id_: Its id.
            timeout: Seconds to wait.
            progress: Called with inputs done and inputs in all; True draws a bar.

        Raises:
            StitchworkError: If its preparation failed, or takes longer.
        """
        until = time.monotonic() + timeout
        with ExitStack() as stack:
            tell: Progress | None = None
            while True:
                record = yield from ask_json("GET", _path(kind, id_))
                pending = record.get("pending", record)
                if pending["status"] == "ready":
                    return record
                if pending["status"] == "failed":
                    raise StitchworkError(
                        f"{kind} {id_}: {pending['reason']}", code=ErrorCode.REGISTRATION_FAILED
                    )
                done, total = pending["progress"]["done"], pending["progress"]["total"]
                tell = tell or stack.enter_context(shown(progress, f"preparing {id_}", total))
                tell(done, total)
                if time.monotonic() > until:
                    raise StitchworkError(f"{kind} {id_} is not ready after {timeout:g} seconds")
                yield Pause(POLL_SECONDS)

    @Operation
    def translate(
        self,
        embeddings: Rows,
        source: str,
        target: str,
        bridge: str | None = None,
        *,
        out: Any = None,
        progress: Progress | bool = False,
    ) -> Flow[Floats]:
        """Embeddings (n, d_source) of one space as (n, d_target) of another.

        Many rows are read, sent and written in parts, so `np.memmap` or anything else that is read
        by slices is never in memory as a whole.

        Args:
            embeddings: (n, d_source), any floats.
            source: Id of the space that they live in.
            target: Id of the space to go to.
            bridge: Unset: the service's default.
            out: (n, d_target) to write to, such as a `np.memmap`; unset: a new array.
            progress: Called with rows done and rows in all; True draws a bar.

        Returns:
            (n, d_target) float32, or `out`.

        Raises:
            VersionMismatchError: If a space was replaced while the parts were answered.
        """
        query = {"source": source, "target": target, "bridge": bridge}
        found = yield from rows_to_rows(self, "/translate", query, embeddings, out, progress)
        rows: Floats = found.rows
        return rows

    @Operation
    def translation(
        self,
        embeddings: Rows,
        source: str,
        target: str,
        bridge: str | None = None,
        *,
        out: Sink | None = None,
        progress: Progress | bool = False,
    ) -> Flow[Translated]:
        """The same as `translate`, with what the service says of single rows."""
        query = {"source": source, "target": target, "bridge": bridge}
        return (yield from rows_to_rows(self, "/translate", query, embeddings, out, progress))

    @Operation
    def classify(
        self,
        head: str,
        embeddings: Rows,
        space: str,
        bridge: str | None = None,
        top: int = 1,
        *,
        progress: Progress | bool = False,
    ) -> Flow[Predictions]:
        """Predictions for embeddings (n, d) of a space; many are sent in parts."""
        query = {"space": space, "bridge": bridge, "top": top}
        path = _path("classify", head)
        return (yield from rows_to_predictions(self, path, query, embeddings, progress))

    @Operation
    def embed(
        self,
        encoder: str,
        items: Items,
        target: str | None = None,
        bridge: str | None = None,
        *,
        out: Any = None,
        progress: Progress | bool = False,
    ) -> Flow[Floats]:
        """Raw inputs as embeddings (n, d) of the encoder's space or, translated, of the target.

        Many are sent in parts; `out` and `progress` are as in `translate`.
        """
        told = {"target": target, "bridge": bridge}
        path = _path("embed", encoder)
        found = yield from items_to_rows(self, path, told, items, out, progress)
        rows: Floats = found.rows
        return rows

    @Operation
    def stitch(
        self,
        encoder: str,
        head: str,
        items: Items,
        bridge: str | None = None,
        top: int = 1,
        *,
        progress: Progress | bool = False,
    ) -> Flow[Predictions]:
        """Predictions for raw inputs, by one space's encoder and another's head."""
        told = {"bridge": bridge, "top": top}
        path = _path("stitch", encoder, head)
        return (yield from items_to_predictions(self, path, told, items, progress))

    @Operation
    def compatibility(
        self, anchor_set: str, bridge: str | None = None, spaces: Sequence[str] | None = None
    ) -> Flow[dict[str, Any]]:
        """How well the spaces of a set translate into each other, told by held-out anchors."""
        named = None if spaces is None else ",".join(spaces)
        query = {"anchor_set": anchor_set, "bridge": bridge, "spaces": named}
        return (yield from ask_json("GET", "/compatibility", query=query))

    @Operation
    def anchors(
        self, space: str, target: str | None = None, bridge: str | None = None
    ) -> Flow[dict[str, Any]]:
        """Duplicates among a space's anchors, what to drop, whether there are enough.

        With a target also the pairs that do not seem to belong together.
        """
        query = {"target": target, "bridge": bridge}
        return (yield from ask_json("GET", _path("spaces", space, "anchors"), query=query))

    @Operation
    def next_anchors(self, space: str, pool: Floats, count: int = 10) -> Flow[list[dict[str, Any]]]:
        """Which rows of a pool (n, d) of a space to take as anchors next, and what each closes."""
        path = _path("spaces", space, "anchors", "next")
        told = yield from _ask_with("POST", path, {"count": count}, embeddings=pool)
        found: list[dict[str, Any]] = told["next"]
        return found

    @Operation
    def judge(
        self,
        encoder: str,
        head: str,
        labels: Sequence[str],
        *,
        items: Items | None = None,
        embeddings: Floats | None = None,
        native_embeddings: Floats | None = None,
        bridge: str | None = None,
        calibrate: bool = False,
    ) -> Flow[dict[str, Any]]:
        """Accuracies and a verdict of a labelled sample.

        Args:
            encoder: Id of the space that the inputs come from.
            head: The head.
            labels: One for each input.
            items: The raw inputs, or
            embeddings: (n, d) of the encoder's space.
            native_embeddings: (n, d) of the same inputs in the head's own space.
            bridge: Unset: the service's default.
            calibrate: Let `confidence` learn from the sample, from now on.
        """
        listed = None if items is None else json_items(items)
        told = {"labels": list(labels), "items": listed, "bridge": bridge, "calibrate": calibrate}
        arrays = {"embeddings": embeddings, "native_embeddings": native_embeddings}
        path = _path("compatibility", encoder, head)
        return (yield from _ask_with("POST", path, without_none(told), **arrays))

    @Operation
    def export(
        self,
        source: str,
        target: str,
        bridge: str | None = None,
        *,
        head: str | None = None,
        format: FileFormat = "safetensors",  # noqa: A002 as in the query
    ) -> Flow[bytes]:
        """The map from one space to another as a file that needs no service.

        Args:
            source: Id of the space that rows come from.
            target: Id of the space that they go to; that of the head, where one is named.
            bridge: Unset: the service's default.
            head: A head to append, in ONNX only.
            format: What kind of file.
        """
        query = {"bridge": bridge, "head": head, "format": format}
        answer = yield from ask("GET", _path("spaces", source, "translations", target), query=query)
        return answer.content


def _ask_with(
    method: str, path: str, told: dict[str, Any], **arrays: Floats | None
) -> Flow[dict[str, Any]]:
    """JSON, or safetensors with the rest as metadata where there are arrays."""
    given = {
        name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items() if a is not None
    }
    if not given:
        return (yield from ask_json(method, path, told=told))
    meta = {key: orjson.dumps(value).decode() for key, value in told.items()}
    headers = {"Content-Type": SAFETENSORS}
    answer: httpx.Response = yield Request(method, path, {}, headers, save(given, meta))
    return json_of(answer)


def _path(*parts: str) -> str:
    return "/" + "/".join(quote(part, safe="") for part in parts)


def json_items(items: Sequence[Item]) -> list[str]:
    """Raw inputs as JSON can hold them: texts as they are, image files as base64."""
    return [json_item(item) for item in items]
