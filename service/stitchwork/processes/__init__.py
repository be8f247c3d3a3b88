"""Child processes for calls that would hold this interpreter's lock, or much memory, for long."""
