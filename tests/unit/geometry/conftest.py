"""Runs every law in every array library, and on a GPU where there is one."""

import numpy as np
import pytest
import torch

from tests.support.latent_spaces import ArrayLibrary

LIBRARIES = [
    ArrayLibrary("numpy", np.asarray, np.asarray),
    ArrayLibrary("torch", torch.as_tensor, lambda x: x.numpy()),
]
if torch.cuda.is_available():
    LIBRARIES.append(
        ArrayLibrary("cuda", lambda x: torch.as_tensor(x, device="cuda"), lambda x: x.cpu().numpy())
    )


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.name)
def lib(request: pytest.FixtureRequest) -> ArrayLibrary:
    library = request.param
    assert isinstance(library, ArrayLibrary)
    return library
