"""Experiments over a running service: what is measured, and how it is shown."""
