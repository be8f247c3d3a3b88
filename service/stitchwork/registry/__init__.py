"""What outlives a process: the registry, and the inverses derived from it."""
