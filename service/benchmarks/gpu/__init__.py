"""A worker's GPU: equality with the CPU, speed against the bare pass, and memory."""
