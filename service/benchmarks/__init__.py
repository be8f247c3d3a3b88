"""Benchmarks of the service against baselines, run by `python -m benchmarks`."""
