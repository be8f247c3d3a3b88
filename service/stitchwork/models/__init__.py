"""Pretrained models: only this package, `worker` and its composition root import torch."""
