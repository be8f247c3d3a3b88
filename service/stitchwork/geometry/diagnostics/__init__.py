"""Diagnostics of spaces and pairs of spaces, computed from their anchors alone."""
