"""A client of the service: numpy in and out, safetensors on the wire."""

import base64
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import load, save

from service.errors import StitchworkError

SAFETENSORS: Final = "application/vnd.safetensors"
POLL_SECONDS: Final = 0.2

Kind = Literal["anchor-sets", "spaces", "heads"]
Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]


class ServiceProblem(StitchworkError):
    """The service answered with a problem.

    Attributes:
        status: The HTTP status.
        code: The stable name of the condition.
    """

    def __init__(self, status: int, told: dict[str, Any]) -> None:
        message = str(told.get("detail", "the service gave no reason"))
        super().__init__(
            message, pointer=told.get("pointer"), code=str(told.get("code", "unknown"))
        )
        self.status = status


class Stitchwork:
    """One service.

    Args:
        url: Where it listens, such as `http://127.0.0.1:8765`.
        timeout: Seconds one request may take.
    """

    def __init__(self, url: str, timeout: float = 60.0) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def put_anchor_set(
        self,
        id_: str,
        modality: str = "vector",
        *,
        items: Sequence[str] | Sequence[bytes] | None = None,
        ids: Sequence[str] | None = None,
        size: int | None = None,
    ) -> dict[str, Any]:
        """Declare an anchor set by its items, by its ids, or only by its size."""
        shown = None if items is None else json_items(items)
        told = {"modality": modality, "items": shown, "ids": ids, "size": size}
        return self._json("PUT", f"/anchor-sets/{id_}", _without_none(told))

    def put_space(
        self,
        id_: str,
        anchor_set: str,
        *,
        anchors: Floats | None = None,
        encoder: dict[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Register a space by its (k, d) anchors, or have the service embed the set's items."""
        told = {"anchor_set": anchor_set, "encoder": encoder, "ids": ids, **parameters}
        return self._send("PUT", f"/spaces/{id_}", _without_none(told), anchors=anchors)

    def put_head(
        self, id_: str, space: str, *, arrays: dict[str, Floats] | None = None, **told: Any
    ) -> dict[str, Any]:
        """Register a head.

        Args:
            id_: The head's id.
            space: Id of its space.
            arrays: `weight` (c, d) and `bias` (c,), or `0.weight`, `0.bias`, `2.weight`, … of an
                MLP, or `embeddings` (n, d) to fit a linear head on, each with `labels`.
            told: `labels`, `activation`, `classifier`, or `fit` with `items` and `labels`.
        """
        if "fit" in told and "items" in told["fit"]:
            told["fit"] = {**told["fit"], "items": json_items(told["fit"]["items"])}
        return self._send("PUT", f"/heads/{id_}", {"space": space, **told}, **(arrays or {}))

    def get(self, kind: Kind, id_: str) -> dict[str, Any]:
        """One record."""
        return self._json("GET", f"/{kind}/{id_}")

    def delete(self, kind: Kind, id_: str) -> None:
        """Remove one record."""
        self._checked(self._http.delete(f"/{kind}/{id_}"))

    def records(self, kind: Kind) -> Iterator[dict[str, Any]]:
        """All records of one kind, in the order of their ids."""
        cursor: str | None = None
        while True:
            query: dict[str, str] = {"cursor": cursor} if cursor else {}
            page = self._checked(self._http.get(f"/{kind}", params=query)).json()
            yield from page["items"]
            cursor = page["cursor"]
            if cursor is None:
                return

    def wait(
        self, kind: Kind, id_: str, *, timeout: float = 600.0, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Wait until what was registered last under an id serves.

        Args:
            kind: The kind of record.
            id_: Its id.
            timeout: Seconds to wait.
            progress: Called with inputs done and inputs in all.

        Raises:
            StitchworkError: If its preparation failed, or takes longer.
        """
        until = time.monotonic() + timeout
        while True:
            record = self.get(kind, id_)
            pending = record.get("pending", record)
            if pending["status"] == "ready":
                return record
            if pending["status"] == "failed":
                raise StitchworkError(f"{kind} {id_}: {pending['reason']}", code="failed")
            if progress:
                progress(pending["progress"]["done"], pending["progress"]["total"])
            if time.monotonic() > until:
                raise StitchworkError(f"{kind} {id_} is not ready after {timeout:g} seconds")
            time.sleep(POLL_SECONDS)

    def translate(
        self, embeddings: Floats, source: str, target: str, bridge: str | None = None
    ) -> Floats:
        """Embeddings (n, d_source) of one space as (n, d_target) of another."""
        query = _without_none({"source": source, "target": target, "bridge": bridge})
        return self._rows("/translate", save({"embeddings": _rows(embeddings)}), query)

    def classify(
        self, head: str, embeddings: Floats, space: str, bridge: str | None = None, top: int = 1
    ) -> list[dict[str, Any]]:
        """Predictions for embeddings (n, d) of a space."""
        query = _without_none({"space": space, "bridge": bridge, "top": str(top)})
        body = save({"embeddings": _rows(embeddings)})
        answer = self._http.post(
            f"/classify/{head}", content=body, params=query, headers={"Content-Type": SAFETENSORS}
        )
        found: list[dict[str, Any]] = self._checked(answer).json()["predictions"]
        return found

    def embed(
        self,
        encoder: str,
        items: Sequence[str] | Sequence[bytes],
        target: str | None = None,
        bridge: str | None = None,
    ) -> Floats:
        """Raw inputs as embeddings (n, d) of the encoder's space or, translated, of the target."""
        told = {"items": json_items(items), "target": target, "bridge": bridge}
        return self._rows(
            f"/embed/{encoder}", orjson.dumps(_without_none(told)), {}, "application/json"
        )

    def stitch(
        self,
        encoder: str,
        head: str,
        items: Sequence[str] | Sequence[bytes],
        bridge: str | None = None,
        top: int = 1,
    ) -> list[dict[str, Any]]:
        """Predictions for raw inputs, by one space's encoder and another's head."""
        told = _without_none({"items": json_items(items), "bridge": bridge, "top": top})
        found: list[dict[str, Any]] = self._json("POST", f"/stitch/{encoder}/{head}", told)[
            "predictions"
        ]
        return found

    def compatibility(
        self, anchor_set: str, bridge: str | None = None, spaces: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """How well the spaces of a set translate into each other, told by held-out anchors."""
        named = None if spaces is None else ",".join(spaces)
        query = {"anchor_set": anchor_set, "bridge": bridge, "spaces": named}
        answer = self._checked(self._http.get("/compatibility", params=_without_none(query)))
        found: dict[str, Any] = answer.json()
        return found

    def anchors(
        self, space: str, target: str | None = None, bridge: str | None = None
    ) -> dict[str, Any]:
        """Duplicates among a space's anchors, what to drop, whether there are enough.

        With a target also the pairs that do not seem to belong together.
        """
        query = _without_none({"target": target, "bridge": bridge})
        answer = self._checked(self._http.get(f"/spaces/{space}/anchors", params=query))
        found: dict[str, Any] = answer.json()
        return found

    def next_anchors(self, space: str, pool: Floats, count: int = 10) -> list[dict[str, Any]]:
        """Which rows of a pool (n, d) of a space to take as anchors next, and what each closes."""
        told = {"count": count}
        found: list[dict[str, Any]] = self._send(
            "POST", f"/spaces/{space}/anchors/next", told, embeddings=pool
        )["next"]
        return found

    def judge(
        self,
        encoder: str,
        head: str,
        labels: Sequence[str],
        *,
        items: Sequence[str] | Sequence[bytes] | None = None,
        embeddings: Floats | None = None,
        native_embeddings: Floats | None = None,
        bridge: str | None = None,
        calibrate: bool = False,
    ) -> dict[str, Any]:
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
        shown = None if items is None else json_items(items)
        told = {"labels": list(labels), "items": shown, "bridge": bridge, "calibrate": calibrate}
        arrays = {"embeddings": embeddings, "native_embeddings": native_embeddings}
        path = f"/compatibility/{encoder}/{head}"
        return self._send("POST", path, _without_none(told), **arrays)

    def _rows(
        self, path: str, body: bytes, query: dict[str, str], media: str = SAFETENSORS
    ) -> Floats:
        headers = {"Content-Type": media, "Accept": SAFETENSORS}
        answer = self._http.post(path, content=body, params=query, headers=headers)
        return load(self._checked(answer).content)["embeddings"]

    def _send(
        self, method: str, path: str, told: dict[str, Any], **arrays: Floats | None
    ) -> dict[str, Any]:
        """JSON, or safetensors with the rest as metadata where there are arrays."""
        given = {
            name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items() if a is not None
        }
        if not given:
            return self._json(method, path, told)
        meta = {key: orjson.dumps(value).decode() for key, value in told.items()}
        answer = self._http.request(
            method, path, content=save(given, meta), headers={"Content-Type": SAFETENSORS}
        )
        found: dict[str, Any] = self._checked(answer).json()
        return found

    def _json(self, method: str, path: str, told: Any = None) -> dict[str, Any]:
        body = None if told is None else orjson.dumps(told)
        headers = {} if told is None else {"Content-Type": "application/json"}
        found: dict[str, Any] = self._checked(
            self._http.request(method, path, content=body, headers=headers)
        ).json()
        return found

    @staticmethod
    def _checked(answer: httpx.Response) -> httpx.Response:
        if answer.is_error:
            is_problem = answer.headers.get("content-type", "").endswith("json")
            raise ServiceProblem(answer.status_code, answer.json() if is_problem else {})
        return answer


def json_items(items: Sequence[str | bytes]) -> list[str]:
    """Raw inputs as JSON can hold them: texts as they are, image files as base64."""
    return [base64.b64encode(i).decode() if isinstance(i, bytes) else i for i in items]


def _rows(embeddings: Floats) -> Floats:
    return np.ascontiguousarray(embeddings, np.float32)


def _without_none(told: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if value is not None}
