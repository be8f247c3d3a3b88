"""Real pretrained models; with `worker.py` the only place that knows torch."""
