"""Real pretrained models; with `worker` the only place that knows torch."""
