"""Pretrained models. Only this package and `worker` import torch."""
