"""Names of models of other protocols: `space`, `space->target`, or an alias of one."""

from typing import Annotated, Final

from fastapi import Path
from pydantic import Field

from stitchwork.api.dependencies import AppState
from stitchwork.errors import InvalidInputError
from stitchwork.ids import check_id

ARROW: Final = "->"
DEFAULT_MODEL: Final = "*"
"""The alias of the model of requests without one."""

ModelNameField = Annotated[
    str,
    Field(
        max_length=300,
        description="`space`, which must have an encoder, `space->target` to translate, or a name "
        "of the setting `model_aliases`; without one, its `*`.",
    ),
]
ModelNamePath = Annotated[str, Path(description="`space`, `space->target`, or an alias of one.")]


def model_spaces(state: AppState, model: str) -> tuple[str, str | None]:
    """The ids of a model's source and, if it translates, of its target.

    Args:
        state: The state of the API, which has the aliases.
        model: Its name, or an alias.

    Raises:
        InvalidInputError: If there is no name and no default model, or the name has no valid ids.
    """
    if model == DEFAULT_MODEL and model not in state.model_aliases:
        raise InvalidInputError("expected a model, got none", pointer="/model")
    model = state.model_aliases.get(model, model)
    source, arrow, target = model.partition(ARROW)
    return check_id(source, "/model"), check_id(target, "/model") if arrow else None
