"""The models that paths of Text Embeddings Inference name."""

from stitchwork.api.dependencies import AppState
from stitchwork.api.model_names import model_spaces
from stitchwork.errors import ErrorCode, UnknownResourceError


def path_spaces(state: AppState, model: str) -> tuple[str, str | None]:
    """The ids of a model's source and, if it translates, of its target.

    Only aliases contain a slash: what follows one in any other name is a path that is not offered.

    Args:
        state: The state of the API, which has the aliases.
        model: Its name, or an alias, as the path has it.

    Raises:
        UnknownResourceError: If the name goes on with a path that is not offered.
        InvalidInputError: If the name has no valid ids.
    """
    if "/" in model and model not in state.model_aliases:
        raise UnknownResourceError(
            f"no path /tei/{model[:100]}: a model is at /tei/{{model}}, with /embed, "
            "/tokenize, /decode, /info and /health below it; a name with a slash must be one of "
            "the setting model_aliases",
            code=ErrorCode.UNKNOWN_PATH,
        )
    return model_spaces(state, model)
