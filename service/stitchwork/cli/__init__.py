"""The `stitchwork` command."""
