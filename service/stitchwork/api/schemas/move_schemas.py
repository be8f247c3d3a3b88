"""Bodies of moves: reports of the commands that run them, assessments, and what is known."""

from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from stitchwork.api.schemas.request_model import RequestModel
from stitchwork.api.schemas.response_model import ResponseModel
from stitchwork.resources.moves import MoveAssessment, MoveReport


class MoveRequest(MoveReport, RequestModel):
    """How far a move is, or how it ended; each report replaces the one before."""

    run: Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = (
        Field(
            None,
            description="Id of one call of the command, another for each. A report that arrives "
            "late changes nothing: a `running` one after the call has ended, or one of a call "
            "before the current.",
        )
    )

    example: ClassVar[dict[str, Any]] = {
        "status": "running",
        "source": "store.parquet",
        "target": "moved.parquet",
        "versions": {
            "source": "other",
            "source_version": "5f2c0d7a",
            "target": "minilm",
            "target_version": "90b1e6c4",
            "bridge": "ridge",
        },
        "rows": 8192,
        "total": 10003,
        "written": 8192,
    }


class MoveAssessmentRequest(MoveAssessment, RequestModel):
    """What to do with the rows that a move has written, and their recall."""

    example: ClassVar[dict[str, Any]] = {
        "action": "translate",
        "sample": 2000,
        "recall_at_10_translated_queries": 0.91,
        "recall_at_10_translated_store": 0.94,
    }


class MoveResponse(MoveReport, ResponseModel):
    """A move of a store of vectors, as it was last reported."""

    id: str
    created: datetime = Field(description="When it was first reported.")
    updated: datetime = Field(description="When it was last reported.")
    assessment: MoveAssessment | None = Field(
        None,
        description="What `stitchwork assess --moved` reported; absent until it has.",
    )


class MovePage(ResponseModel):
    """A page of moves."""

    items: list[MoveResponse]
    cursor: str | None = Field(description="Query parameter of the next page; null on the last.")
    unreadable: list[str] = Field(
        [], description="Ids of moves that another release stored; GET of one says why."
    )
