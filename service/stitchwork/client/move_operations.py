"""The client's methods for moves of stores."""

from collections.abc import Mapping
from typing import Any, Final

from stitchwork.client.flows import Flow, Operation, send, send_json, url_path

PAGE_SIZE: Final = 1000


class MoveOperations:
    """Reports moves of stores, and reads what is known of them."""

    @Operation
    def moves(self) -> Flow[list[dict[str, Any]]]:
        """All moves that the service knows, the latest first."""
        moves: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = yield from send_json(
                "GET", "/moves", query={"limit": PAGE_SIZE, "cursor": cursor}
            )
            moves += page["items"]
            cursor = page["cursor"]
            if cursor is None:
                return moves

    @Operation
    def move(self, id_: str) -> Flow[dict[str, Any]]:
        """One move, as it was last reported."""
        return (yield from send_json("GET", url_path("moves", id_)))

    @Operation
    def report_move(self, id_: str, report: Mapping[str, Any]) -> Flow[None]:
        """Report how far a move is, or how it ended.

        `stitchwork.migration.MoveReporter` does so while `move` runs.

        Args:
            id_: Its id.
            report: The fields of `PUT /moves/{id}`.
        """
        yield from send("PUT", url_path("moves", id_), body=dict(report))

    @Operation
    def report_move_assessment(self, id_: str, assessment: Mapping[str, Any]) -> Flow[None]:
        """Report how the rows that a move has written were judged.

        Args:
            id_: Id of the move.
            assessment: The fields of `PUT /moves/{id}/assessment`.
        """
        yield from send("PUT", url_path("moves", id_, "assessment"), body=dict(assessment))
