"""The same work in other programs: scripts for interpreters that have them installed."""
