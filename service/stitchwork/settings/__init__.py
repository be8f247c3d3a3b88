"""The settings: one frozen model, read from the environment and from options of the commands."""

from stitchwork.settings.settings import Settings

__all__ = ["Settings"]
