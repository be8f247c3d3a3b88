"""Diagnostics of spaces and pairs of spaces, from their anchors alone."""
