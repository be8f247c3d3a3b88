"""Paths of models on the service's machines, which are not for everyone who may infer."""

import re
from collections.abc import Generator
from contextlib import contextmanager

from stitchwork.errors import StitchworkError
from stitchwork.resources import Space, local_path


@contextmanager
def hide_model_path(space: Space) -> Generator[None, None, None]:
    """A context in which errors name the space in place of the local path of its model.

    Args:
        space: The space whose encoder is used.
    """
    try:
        yield
    except StitchworkError as error:
        path = space.encoder and local_path(space.encoder)
        if path:
            name = f"the model of space {space.id}"
            error.message = re.sub(
                rf"(?<!\w){re.escape(path)}(?!\w)", lambda _: name, error.message
            )
            error.args = (error.message,)
        raise
