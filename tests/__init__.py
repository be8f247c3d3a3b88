"""Tests of every part, and drills against the real processes."""

import os

# Before any library starts threads: those of one matrix product wait for one another, and in
# tests, where many processes share the cores, that takes up to twenty times as long as no threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# With it, a client of the hub refuses every address, a test's own server among them.
os.environ.pop("HF_HUB_OFFLINE", None)
