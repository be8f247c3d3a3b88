"""`stitchwork demo`."""
