"""Every law holds in every array library, and on every device that is at hand."""

import numpy as np
import pytest
import torch

from tests.support.latent_worlds import Library

LIBRARIES = [
    Library("numpy", np.asarray, np.asarray),
    Library("torch", torch.as_tensor, lambda x: x.numpy()),
]
if torch.cuda.is_available():
    LIBRARIES.append(
        Library("cuda", lambda x: torch.as_tensor(x, device="cuda"), lambda x: x.cpu().numpy())
    )


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.name)
def lib(request: pytest.FixtureRequest) -> Library:
    library = request.param
    assert isinstance(library, Library)
    return library
