"""Stitchwork: any registered encoder feeds any registered classifier head, zero-shot."""

__version__ = "0.1.0"
