"""Time of a fit of latentis; run by an interpreter that has it installed.

`PYTHON with_latentis.py ANCHORS` loads an .npz file with `x` (k, d_x) and `y` (k, d_y), prints
`ready`, and replies to each line of standard input with the seconds of one fit.
"""

import sys
import time

import numpy as np
import torch
from latentis.transform.translate import Procrustes

if __name__ == "__main__":
    torch.set_num_threads(1)
    with np.load(sys.argv[1], allow_pickle=False) as npz:
        x, y = (torch.as_tensor(npz[name]) for name in ("x", "y"))
    print("ready", flush=True)  # noqa: T201
    for _ in sys.stdin:
        start = time.perf_counter()
        Procrustes().fit(x, y)
        print(time.perf_counter() - start, flush=True)  # noqa: T201
