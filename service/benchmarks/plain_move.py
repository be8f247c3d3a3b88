"""A move as a script would do it: reads a Parquet file, translates its rows and writes another.

A program of its own: `python -m benchmarks.plain_move SOURCE TARGET MAP`. MAP is the file of a map
with one matrix, or with landmarks and weights. Prints the seconds that it took.
"""

import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open


def plain_move(source: str, target: str, map_file: str) -> float:
    """Move a file; the seconds that it took."""
    start = time.perf_counter()
    with safe_open(map_file, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        constants = file.metadata()
    scale = float(constants["scale"])
    writer = None
    for batch in pq.ParquetFile(source).iter_batches(8192):
        x = batch["embedding"].flatten().to_numpy().reshape(batch.num_rows, -1)
        if "matrix" in arrays:
            y = x @ arrays["matrix"] - arrays["source_mean"] @ arrays["matrix"]
        else:
            x = x - arrays["source_mean"]
            x *= float(constants["sharpness"]) / np.linalg.norm(x, axis=1, keepdims=True)
            y = np.exp(x @ arrays["landmarks"]) @ arrays["weights"]
        y = y * (scale / np.linalg.norm(y, axis=1, keepdims=True)) + arrays["target_mean"]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(y.ravel()), y.shape[1])
        index = batch.schema.get_field_index("embedding")
        moved = batch.set_column(index, "embedding", vectors)
        writer = writer or pq.ParquetWriter(target, moved.schema)
        writer.write_batch(moved)
    if writer is not None:
        writer.close()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.stdout.write(f"{plain_move(*sys.argv[1:])}\n")
