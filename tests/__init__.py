"""Tests of every part, and drills against the real processes."""

import os

# Before any library starts threads: those of one matrix product wait for one another, and in
# tests, where many processes share the cores, that takes up to twenty times as long as no threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
