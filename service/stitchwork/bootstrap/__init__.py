"""Composition roots: the one place that constructs the parts of a process."""
